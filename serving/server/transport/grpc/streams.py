"""Streams of requests: the requests of one stream share batches and are answered in order.

Two coroutines work on a stream:

- The *reader* (`read`, a task of its own) takes each request from gRPC, gives it a place at the end of the queue of
  places, and submits its query. The reader does not wait for earlier answers, so requests of one stream share batches.
- The *writer* (`outcomes`, in the task of the call) takes places only from the front of the queue, and waits until the
  first place has its outcome. So responses leave in the order of the requests, although queries may end in another
  order.

Back-pressure: the reader waits while the queue holds ``window`` places, or ``max_bytes`` of requests and answers. An
answer counts from the moment when it is computed until the writer takes it. An answer that is not computed yet counts
with a size estimated from earlier answers. Until the first answer is known, there are at most `FIRST` places. If
answers turn out larger than estimated, the queue holds more than max_bytes, but at most ``window`` answers, and the
reader waits until the queue has shrunk. The writer frees places, and gRPC's flow control stops the writer while the
client does not read. So the server soon stops reading from a client that does not read its answers. If the queue is
empty, the reader takes a request of any size, so no stream stops for ever.

Cancellation: when the client cancels or disconnects, or the deadline passes, grpcio cancels the writer's task, which
calls `leave`. `leave` cancels every query that has no outcome yet, and the reader ends.

Stop: after `stop` the reader takes no more requests. The writer answers the requests in the queue, and then ends the
stream with UNAVAILABLE, unless the client had finished sending.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import grpc

from hangtag.serving.server.errors import QueueFullError, UnavailableError
from hangtag.serving.server.queue.call import memory_of
from hangtag.serving.server.transport.grpc.handlers import Context, call_deadline
from hangtag.serving.server.wire.event_loop import LoopCall, LoopCalls
from hangtag.serving.server.wire.intake import Origin
from hangtag.serving.server.wire.transport_call import LARGE_MESSAGE, Query

FIRST = 4
"""How many requests of a stream may be computed before the size of an answer is known."""

Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(eq=False, slots=True)
class _Place:
    """One request's place in the order of the answers."""

    request: Any
    size: int  # bytes
    call: LoopCall
    answer: int | None = None  # bytes; None until there is an outcome


class OrderedStream(Generic[Request]):
    """The unanswered requests of one stream, in order. Use this object only on the event loop."""

    def __init__(self, window: int, max_bytes: int, call: Callable[[Request], LoopCall]) -> None:
        """Create a stream that has read nothing yet.

        Args:
            window: How many requests may be unanswered at once.
            max_bytes: How large the unanswered requests and their answers may be in total. A single request may be
                larger.
            call: Makes the call for a request.
        """
        self._window = window
        self._max_bytes = max_bytes
        self._call = call
        self._changed = asyncio.Event()
        self._places: deque[_Place] = deque()
        self._held = 0  # bytes of the queued requests and of the computed answers
        self._computing = 0  # the number of places without an outcome
        # the estimated bytes of an answer that is not computed yet; None before the first answer
        self._expected: int | None = None
        self._finished = False  # whether the client has sent everything, or a message that ends the stream
        self._read_error: Exception | None = None
        self._stopped = False
        self._left = False

    async def read(self, requests: AsyncIterator[Request], submit: Callable[[LoopCall, int], Awaitable[None]]) -> None:
        """Submit each request as it arrives, until the client has sent all of them or the stream ends.

        Args:
            requests: Waits for the next request, and raises grpc.aio.BaseError once the call has ended.
            submit: Queues a call, given the request's size in bytes, and never raises an error.
        """
        try:
            async for request in requests:
                place = await self._add_place(request)
                if place is None:
                    return
                await submit(place.call, place.size)
        except grpc.aio.BaseError:  # the call has ended
            return
        except Exception as error:
            self._read_error = error
        self._finished = True
        self._changed.set()

    async def outcomes(self) -> AsyncIterator[tuple[Request, int, LoopCall]]:
        """Yield the requests in order, each with its size in bytes and its call, once the call has its outcome.

        An exception is raised only after every request that was read has its outcome.

        Raises:
            UnavailableError: The server is stopping.
            InvalidRequestError: The client sent bytes that are not a message.
        """
        while True:
            await self._until(lambda: bool(self._places) or self._finished or self._stopped)
            if not self._places:
                break
            place = self._places[0]
            await place.call
            self._completed(place)
            self._places.popleft()
            self._held -= place.size + (place.answer or 0)
            self._changed.set()
            yield place.request, place.size, place.call
        if self._read_error is not None:
            raise self._read_error
        if not self._finished:
            raise UnavailableError(
                "the server is stopping; send the unanswered requests on a new stream to another replica"
            )

    def stop(self) -> None:
        """Stop reading, and end once every request that was read is answered."""
        self._stopped = True
        self._changed.set()

    def leave(self) -> None:
        """End the stream, because the client has left or has all its answers, and cancel the calls that are still
        queued."""
        self._left = True
        self._changed.set()
        for place in self._places:
            place.call.cancel()
        self._places.clear()

    async def _add_place(self, request: Any) -> _Place | None:
        """Wait for room and append a place. Return None if the stream reads no more."""
        size = request.ByteSize()
        await self._until(lambda: self._has_room(size) or self._stopped or self._left)
        if self._stopped or self._left:
            return None
        place = _Place(request, size, self._call(request))
        self._places.append(place)
        self._held += size
        self._computing += 1
        place.call.when_ended(partial(self._completed, place))
        self._changed.set()
        return place

    def _completed(self, place: _Place) -> None:
        """Count a place's answer once, although the callback may run after the writer has already counted the
        answer."""
        if place.answer is not None:
            return
        place.answer = 0
        self._computing -= 1
        if (result := place.call.result) is not None:
            place.answer = sum(map(memory_of, result.outputs.values()))
            self._held += place.answer
            # The old estimate is halved each time, so that one large answer among small answers delays few later
            # requests.
            self._expected = max(place.answer, (self._expected or 0) // 2)
        self._changed.set()

    def _has_room(self, size: int) -> bool:
        if not self._places:
            return True
        if self._expected is None:
            return len(self._places) < min(FIRST, self._window) and self._held + size <= self._max_bytes
        answers = (self._computing + 1) * self._expected
        return len(self._places) < self._window and self._held + answers + size <= self._max_bytes

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


class OpenStreams:
    """Answers the streams of a server. Use this object only on the event loop."""

    def __init__(self, calls: LoopCalls) -> None:
        """Answer no stream yet. ``calls`` submit the requests."""
        self._calls = calls
        config = calls.intake.engine.config
        # One stream can fill the next batch while another batch is computed, but never the whole queue.
        self._window = min(config.max_queue_size, 2 * config.max_batch_size)
        self._max_streams = config.limits.max_streams
        self._streams: set[OrderedStream[Any]] = set()
        # this set keeps the tasks alive, because asyncio keeps only weak references
        self._readers: set[asyncio.Task[None]] = set()
        self._stopped = False
        self.last_end = -math.inf
        """When the latest stream ended, on the loop's clock."""

    async def answer(
        self,
        requests: AsyncIterator[Request],
        context: Context,
        origin: Origin,
        query: Callable[[Request], Query],
        respond: Callable[[Request, LoopCall], Response],
        *,
        in_thread: bool = False,
    ) -> None:
        """Answer each request of a stream, in order. At a stop, or at bytes that are not a message, all requests that
        were read are answered first.

        Args:
            requests: The messages as they arrive.
            context: The stream's call, whose deadline is the deadline of every request.
            origin: Where the stream came from.
            query: Makes the query for a request.
            respond: Makes the response from a call that has its outcome. If ``respond`` raises an error, the stream
                ends.
            in_thread: Whether decoding even a small request takes so long that it would block the loop.

        Raises:
            QueueFullError: Too many streams are open.
            UnavailableError: The server is stopping.
            InvalidRequestError: The client sent bytes that are not a message.
        """
        deadline = call_deadline(context)

        def call(request: Request) -> LoopCall:
            return LoopCall(self._calls, origin, deadline, query(request))

        async def submit(call: LoopCall, size: int) -> None:
            await self._calls.submit(call, in_thread=in_thread or size >= LARGE_MESSAGE)

        stream = OrderedStream(self._window, self._calls.intake.max_message_bytes, call)
        self._add(stream)
        # The reader ends with the call, and is not cancelled, because grpcio would not free a message that arrives for
        # a cancelled read.
        reader = asyncio.create_task(stream.read(requests, submit))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        try:
            async for request, size, answered in stream.outcomes():
                if size < LARGE_MESSAGE and not answered.is_large:
                    response = respond(request, answered)
                else:
                    response = await self._calls.in_thread(partial(respond, request, answered))
                await context.write(response)
        finally:
            stream.leave()
            self._streams.discard(stream)
            self.last_end = asyncio.get_running_loop().time()

    def __len__(self) -> int:
        return len(self._streams)

    def stop(self) -> None:
        """Refuse new streams, and stop reading. Each stream ends once it has answered the requests that it has read."""
        self._stopped = True
        for stream in self._streams:
            stream.stop()

    def _add(self, stream: OrderedStream[Any]) -> None:
        if self._stopped:
            raise UnavailableError("the server is stopping and takes no new streams; try another replica")
        # After a stream has ended, its reader may still wait for the last message to be decoded. The reader holds
        # memory until then.
        if max(len(self._streams), len(self._readers)) >= self._max_streams:
            raise QueueFullError(f"{self._max_streams} streams are open; use one of them, or calls without a stream")
        self._streams.add(stream)
