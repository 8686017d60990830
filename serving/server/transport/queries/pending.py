"""Wait on the event loop for the outcomes of queries, which other threads compute."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from threading import get_ident
from typing import Any, Generic, TypeVar

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import CancelledError, QueueFullError
from hangtag.serving.server.host.cpus import usable_cpus
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.call import record_failure
from hangtag.serving.server.transport.event_loop import event_loop
from hangtag.serving.server.transport.queries.decoding_threads import DecodingThreads
from hangtag.serving.server.transport.queries.image_query import has_large_picture
from hangtag.serving.server.transport.submission import Cancel, Failed, Outcome, Query, submit

Response = TypeVar("Response")
Result = TypeVar("Result")


class PendingQuery(Generic[Response]):
    """A query from before its submission until its outcome. It is the `Reply` of its query."""

    __slots__ = ("_cancel", "_cancelled", "_hand_over", "_outcome")

    def __init__(self, loop: asyncio.AbstractEventLoop, hand_over: "HandOver") -> None:
        self._outcome: asyncio.Future[Outcome[Response]] | None = loop.create_future()
        self._hand_over = hand_over
        self._cancel: Cancel | None = None
        self._cancelled = False

    def submit(self, engine: Engine, query: Query[Response], deadline: float | None) -> None:
        """Submit the query, on any thread, unless it was dropped while it waited for that thread."""
        if self._cancelled:
            _record(engine, query, CancelledError("the caller left before the request was decoded"))
            return
        self._cancel = submit(engine, query, self, deadline)
        if self._cancelled:  # the caller left before there was anything to cancel
            self._cancel()

    def cancel(self) -> None:
        """Drop the query. Nobody waits for its outcome any more."""
        self._cancelled = True
        if self._cancel is not None:
            self._cancel()

    def __call__(self, outcome: Outcome[Response]) -> None:
        if (future := self._outcome) is not None:
            self._hand_over(future, outcome)

    def when_completed(self, callback: Callable[[Outcome[Response]], None]) -> None:
        """Call this on the loop with the outcome, if there is one. To be used before the query is submitted."""

        def completed(future: "asyncio.Future[Outcome[Response]]") -> None:
            if not future.cancelled():
                callback(future.result())

        assert self._outcome is not None
        self._outcome.add_done_callback(completed)

    def __await__(self) -> Generator[Any, None, Outcome[Response]]:
        """Wait for the outcome, once."""
        try:
            assert self._outcome is not None
            return (yield from self._outcome)
        finally:
            # The outcome refers to this object, and a circle of references would delay the end of an unloaded model.
            self._outcome = None


class Queries:
    """Submits queries from coroutines on the event loop."""

    def __init__(self, engine: Engine) -> None:
        """engine: has the models that are queried."""
        self.open = 0
        """Calls whose queries are being answered; those of streams do not count. Of the loop's thread alone."""
        self.last_answer = -math.inf
        """When the last of them was answered, by the loop's clock."""
        self._engine = engine
        self._loop = event_loop()
        self._hand_over = HandOver(self._loop)
        self._decoding = DecodingThreads(usable_cpus(), engine.config.max_queue_size, "decode")

    def pending(self) -> PendingQuery[Any]:
        """Return what a query can be submitted with."""
        return PendingQuery(self._loop, self._hand_over)

    async def answer(
        self, query: Query[Response], deadline: float | None, *, in_thread: bool = False
    ) -> tuple[Response, Timings]:
        """Return the response to one query, and what it cost. The query is dropped when this coroutine is cancelled.

        Args:
            query: Not decoded yet.
            deadline: The call's, on the monotonic clock in seconds; None when it has none.
            in_thread: Whether decoding may take long, and would hold up the loop. A large response is encoded on a
                thread in any case.

        Raises:
            ServerError: The query was refused, dropped, or failed.
        """
        if in_thread:
            (outcome,) = await self.outcomes([query], deadline)
            if isinstance(outcome, Failed):  # at once, and not behind the pictures of other calls
                raise outcome.error
            response = await self.in_thread(outcome.response)
        else:
            pending: PendingQuery[Response] = self.pending()
            pending.submit(self._engine, query, deadline)
            self.open += 1
            try:
                outcome = await pending
            except asyncio.CancelledError:
                pending.cancel()
                raise
            finally:
                self._ended()
            response = await self.in_thread(outcome.response) if outcome.is_large else outcome.response()
        assert outcome.timings is not None  # a response has been computed
        return response, outcome.timings

    async def outcomes(self, queries: Sequence[Query[Response]], deadline: float | None) -> list[Outcome[Response]]:
        """Decode and submit the queries of one call on a thread; return the outcome of each, in their order.

        Raises:
            QueueFullError: As many calls wait to be decoded as a queue holds.
        """
        try:
            self._decoding.take_place()
        except QueueFullError as error:
            for query in queries:
                _record(self._engine, query, error)
            raise
        pending: list[PendingQuery[Response]] = [self.pending() for _ in queries]
        waiting = deque(zip(pending, queries, strict=True))
        del queries

        def submit_all() -> None:
            self._decoding.leave_place()
            for each, query in _taken_from(waiting):
                each.submit(self._engine, query, deadline)

        self.open += 1
        try:
            # Where the caller leaves, its place stays taken until a thread gets to it: such jobs must not gather.
            await self._decode(submit_all, lambda: any(has_large_picture(query) for _, query in tuple(waiting)))
            return [await each for each in pending]
        except asyncio.CancelledError:
            for each in pending:
                each.cancel()
            for each, query in _taken_from(waiting):  # now, so that no message waits for a thread that passes it over
                each.submit(self._engine, query, deadline)
            raise
        finally:
            self._ended()

    async def _decode(self, work: Callable[[], None], is_large: Callable[[], bool]) -> None:
        """Run work on a thread, and to its end if the caller leaves; with a large picture on a thread for these."""
        started = self._decoding.submit(lambda: self._decoding.decode(work, is_large=is_large()))
        waiting = await asyncio.shield(asyncio.wrap_future(started, loop=self._loop))
        if waiting is not None:
            await asyncio.shield(asyncio.wrap_future(waiting, loop=self._loop))

    def _ended(self) -> None:
        self.open -= 1
        self.last_answer = self._loop.time()

    async def submit(
        self, pending: PendingQuery[Response], query: Query[Response], deadline: float | None, *, in_thread: bool
    ) -> None:
        """Submit one query. in_thread: whether decoding may take long, and would hold up the loop."""
        if in_thread:
            await self._decode(lambda: pending.submit(self._engine, query, deadline), lambda: has_large_picture(query))
        else:
            pending.submit(self._engine, query, deadline)

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns, which runs on one of as many threads as there are CPUs."""
        return await asyncio.wrap_future(self._decoding.submit(work), loop=self._loop)

    def close(self) -> None:
        """End the threads."""
        self._decoding.close(cancel=True)


def _taken_from(items: "deque[Result]") -> Iterator[Result]:
    """Take items out, until none is left; two threads may do so at once."""
    with suppress(IndexError):
        while True:
            yield items.popleft()


def _record(engine: Engine, query: Query[Any], error: Exception) -> None:
    """Count the failure of a query that is not submitted."""
    record_failure(engine, query.call, error, time.perf_counter_ns(), query.model_name, query.model_version)


class HandOver:
    """Passes outcomes from any thread to the loop, which wakes up once for all that have gathered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._loop_thread = 0
        self._completed: deque[tuple[asyncio.Future[Any], Outcome[Any]]] = deque()
        self._scheduled = False

    def __call__(self, future: "asyncio.Future[Any]", outcome: Outcome[Any]) -> None:
        self._completed.append((future, outcome))
        if get_ident() == self._loop_thread:
            self._resolve()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        self._loop_thread = get_ident()
        self._scheduled = False  # before the outcomes are taken, so that a later one schedules this again
        while self._completed:
            future, outcome = self._completed.popleft()
            if not future.done():  # else the caller has left
                future.set_result(outcome)
