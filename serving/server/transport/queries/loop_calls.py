"""Calls whose outcomes are awaited on the event loop, while other threads decode and compute them."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from threading import get_ident
from typing import Any, TypeVar

from hangtag.serving.server.batching.call import InferenceResult
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import QueueFullError
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.call import Origin, Query, TransportCall, submit
from hangtag.serving.server.transport.event_loop import event_loop
from hangtag.serving.server.transport.queries.decoding_threads import DecodingThreads
from hangtag.serving.server.transport.queries.image_query import has_large_picture

Result = TypeVar("Result")


class LoopCall(TransportCall):
    """A call of a coroutine, which waits for its outcome by ``await``."""

    is_large = False
    """Whether ``response`` takes long, and would hold up the loop."""

    def __init__(self, calls: "LoopCalls", query: Query, origin: Origin, deadline: float | None) -> None:
        """Describe a call that is not decoded yet.

        Args:
            calls: Those that it is one of.
            query: The request.
            origin: What brought it.
            deadline: On the monotonic clock in seconds; None if the caller waits for ever.
        """
        self.engine = calls.engine
        self.method, self.metadata, self.tracing = origin.method, origin.metadata, origin.tracing
        self.started = time.perf_counter_ns()
        self.query = query
        self.model_name, self.model_version = query.model_name, query.model_version
        self.deadline = deadline
        self._hand_over = calls.hand_over
        self._ended: asyncio.Future[None] = calls.loop.create_future()
        self._outcome: InferenceResult | Exception | None = None

    def respond(self, result: InferenceResult, *, is_large: bool) -> None:
        self._outcome, self.is_large = result, is_large
        self._hand_over(self._ended)

    def refuse(self, error: Exception) -> None:
        self._outcome = error
        self._hand_over(self._ended)

    def __await__(self) -> Generator[Any, None, None]:
        """Wait for the outcome, whatever it is. The call is cancelled when the coroutine is."""
        try:
            yield from self._ended
        except asyncio.CancelledError:
            self.cancel()
            raise

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call this on the loop when there is an outcome, unless nobody waits for it any more."""
        self._ended.add_done_callback(lambda future: None if future.cancelled() else callback())

    @property
    def result(self) -> InferenceResult | None:
        """The model's result; None for a call that was refused, dropped, or failed."""
        return self._outcome if isinstance(self._outcome, InferenceResult) else None

    @property
    def timings(self) -> Timings | None:
        """What the call cost; None as above."""
        return self.result.timings if self.result is not None else None

    def response(self) -> Any:
        """Encode the result, once. Raises what the call ended with, and ServerError if the result has no meaning."""
        if isinstance(self._outcome, InferenceResult):
            return self.encoded(self._outcome)
        assert self._outcome is not None
        raise self._outcome


class LoopCalls:
    """Submits calls from coroutines on the event loop."""

    def __init__(self, engine: Engine, decoding: DecodingThreads) -> None:
        """engine: has the models that are called. decoding: decode what takes long."""
        self.open = 0
        """Calls that are being answered; those of streams do not count. Of the loop's thread alone."""
        self.last_answer = -math.inf
        """When the last of them was answered, by the loop's clock."""
        self.engine = engine
        self.loop = event_loop()
        self.hand_over = HandOver(self.loop)
        self._wakes = False
        self.loop.call_soon_threadsafe(engine.pool.gather_offers, self._wake_later)
        self._decoding = decoding

    def _wake_later(self) -> None:
        """Have batches taken when all calls are queued that the loop has received at once."""
        if not self._wakes:
            self._wakes = True
            self.loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._wakes = False
        self.engine.pool.wake()

    async def answer(
        self, query: Query, origin: Origin, deadline: float | None, *, in_thread: bool = False
    ) -> tuple[Any, Timings]:
        """Return the response to one query, and what it cost. The call is dropped when this coroutine is cancelled.

        Args:
            query: Not decoded yet.
            origin: The call that brought it.
            deadline: The call's, on the monotonic clock in seconds; None when it has none.
            in_thread: Whether decoding may take long, and would hold up the loop. A large response is encoded on a
                thread in any case.

        Raises:
            ServerError: The query was refused, dropped, or failed.
        """
        if in_thread:
            (call,) = await self.outcomes([query], origin, deadline)
        else:
            call = LoopCall(self, query, origin, deadline)
            submit(call)
            self.open += 1
            try:
                await call
            finally:
                self._ended()
        if call.timings is None or not (call.is_large or in_thread):  # an error leaves before other calls' pictures
            response = call.response()
        else:
            response = await self.in_thread(call.response)
        assert call.timings is not None  # a response has been computed
        return response, call.timings

    async def outcomes(self, queries: Sequence[Query], origin: Origin, deadline: float | None) -> list[LoopCall]:
        """Decode and submit the queries of one call on a thread; return a call for each, in their order, when all have
        their outcomes.

        Raises:
            QueueFullError: As many calls wait to be decoded as a queue holds.
        """
        calls = [LoopCall(self, query, origin, deadline) for query in queries]
        del queries
        try:
            self._decoding.take_place()
        except QueueFullError as error:
            for call in calls:
                call.fail(error)
            raise
        waiting = deque(calls)

        def submit_all() -> None:
            self._decoding.leave_place()
            _submit_all(waiting)

        self.open += 1
        try:
            # Where the caller leaves, its place stays taken until a thread gets to it: such jobs must not gather.
            await self._decode(submit_all, lambda: any(map(_has_large_picture, tuple(waiting))))
            for call in calls:
                await call
        except asyncio.CancelledError:
            for call in calls:
                call.cancel()
            _submit_all(waiting)  # now, so that no message waits for a thread that passes it over
            raise
        finally:
            self._ended()
        return calls

    async def _decode(self, work: Callable[[], None], is_large: Callable[[], bool]) -> None:
        """Run work on a thread, and to its end if the caller leaves; with a large picture on a thread for these."""
        started = self._decoding.submit(lambda: self._decoding.decode(work, is_large=is_large()))
        waiting = await asyncio.shield(asyncio.wrap_future(started, loop=self.loop))
        if waiting is not None:
            await asyncio.shield(asyncio.wrap_future(waiting, loop=self.loop))

    def _ended(self) -> None:
        self.open -= 1
        self.last_answer = self.loop.time()

    async def submit(self, call: LoopCall, *, in_thread: bool) -> None:
        """Submit one call. in_thread: whether decoding may take long, and would hold up the loop."""
        if in_thread:
            await self._decode(lambda: submit(call), lambda: _has_large_picture(call))
        else:
            submit(call)

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns, which runs on one of as many threads as there are CPUs."""
        return await asyncio.wrap_future(self._decoding.submit(work), loop=self.loop)


def _has_large_picture(call: LoopCall) -> bool:
    return call.query is not None and has_large_picture(call.query)


def _submit_all(waiting: "deque[LoopCall]") -> None:
    """Take calls out and submit them, until none is left; two threads may do so at once."""
    while True:
        try:
            call = waiting.popleft()
        except IndexError:
            return
        submit(call)


class HandOver:
    """Tells the loop from any thread that futures are to end; it wakes up once for all that have gathered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._loop_thread = 0
        self._ended: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    def __call__(self, future: "asyncio.Future[None]") -> None:
        self._ended.append(future)
        if get_ident() == self._loop_thread:
            self._resolve()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        self._loop_thread = get_ident()
        self._scheduled = False  # before the futures are taken, so that a later one schedules this again
        while self._ended:
            future = self._ended.popleft()
            if not future.done():  # else the caller has left
                future.set_result(None)
