"""Streams of requests: the requests of one stream share batches and are answered in order.

Two coroutines work on a stream:

- The *reader* (`read`, in a separate task) takes each request from gRPC, appends a call to the stream's queue, and
  submits the call. The reader does not wait for earlier answers, so requests of one stream share batches.
- The *writer* (`outcomes`, in the task of the stream) takes the first call from the queue after the call has ended, so
  responses are sent in the order of the requests.

Back-pressure: the reader waits while the queue holds ``window`` calls, or ``max_bytes`` of requests and answers. The
queue holds an answer from the end of the computation until the writer takes the answer. The size of an answer that is
not computed yet is estimated from earlier answers. If answers turn out larger than estimated, the queue holds more than
max_bytes, but at most ``window`` answers. gRPC's flow control stops the writer while the client does not read, so the
server soon stops reading from such a client. If the queue is empty, the reader takes a request of any size, so no
stream waits for ever.

Cancellation: when the client cancels or disconnects, or the deadline passes, grpcio cancels the writer's task. The
writer then cancels every query that has not ended, and the reader ends.

Stop: after `stop` the reader takes no more requests. The writer answers the requests in the queue, and then ends the
stream with UNAVAILABLE, unless the client had finished sending.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeVar

import grpc

from hangtag.serving.server.errors import QueueFullError, UnavailableError
from hangtag.serving.server.transport.grpc.handlers import Context
from hangtag.serving.server.wire.event_loop import AwaitedCall, LoopCalls
from hangtag.serving.server.wire.intake import Origin
from hangtag.serving.server.wire.transport_call import LARGE_MESSAGE, Query, submit, submit_on_thread

FIRST_SHARE = 5
"""Until a stream has answered a request, each answer is assumed to take a fifth of the bytes that the stream may
hold."""

Request = TypeVar("Request")


class StreamCall(AwaitedCall):
    """A call for one request of a stream."""

    request: Any
    size: int
    """Bytes of the request."""
    answer_size: int | None = None
    """Bytes of the answer; None until there is an outcome."""


class OpenStreams:
    """Answers the streams of a server. Use this object only on the event loop."""

    def __init__(self, calls: LoopCalls) -> None:
        self.calls = calls
        config = calls.intake.engine.config
        self.window = min(config.max_queue_size, 2 * config.max_batch_size)
        """How many requests of a stream may be unanswered at the same time. One stream can fill the next batch while
        another batch is computed, but cannot fill the model's queue."""
        self._max_streams = config.limits.max_streams
        self._streams: set[_Stream] = set()
        self._stopped = False

    async def answer(
        self,
        requests: AsyncIterator[Request],
        context: Context,
        origin: Origin,
        query: Callable[[Request], Query],
        respond: Callable[[StreamCall], object],
        *,
        in_thread: bool = False,
    ) -> None:
        """Answer each request of a stream, in order. If the server stops, or the client sends bytes that are not a
        message, the stream ends after the answers to all requests that were read. Raises QueueFullError if too many
        streams are open, and the errors of `_Stream.outcomes`.

        Args:
            requests: The messages as they arrive.
            context: The stream's call.
            origin: The method, metadata and deadline of the stream's call. Every request has the stream's deadline.
            query: Makes the query for a request.
            respond: Makes the response from a call that has ended. If ``respond`` raises an error, the stream ends.
            in_thread: Whether decoding even a small request takes so long that it would block the loop.
        """
        if self._stopped:
            raise UnavailableError("the server is stopping and takes no new streams; try another replica")
        if len(self._streams) >= self._max_streams:
            raise QueueFullError(f"{self._max_streams} streams are open; use one of them, or calls without a stream")
        stream = _Stream(self, origin, query, in_thread=in_thread)
        self._streams.add(stream)
        # The reader ends with the call, and is not cancelled, because grpcio would not free a message that arrives for
        # a cancelled read.
        stream.reader = asyncio.create_task(stream.read(requests))
        try:
            async for call in stream.outcomes():
                await context.write(respond(call))
        finally:
            stream.leave()
            # The reader may still wait, and hold memory, until the last message is decoded.
            stream.reader.add_done_callback(lambda _: self._streams.discard(stream))

    def stop(self) -> None:
        """Refuse new streams, and stop reading. Each stream ends once it has answered the requests that it has read."""
        self._stopped = True
        for stream in self._streams:
            stream.stop()


class _Stream:
    """The unanswered requests of one stream, in order."""

    reader: "asyncio.Task[None]"
    """The task that reads the stream. This reference keeps the task alive, because asyncio has only a weak one."""

    def __init__(self, streams: OpenStreams, origin: Origin, query: Callable[[Any], Query], *, in_thread: bool) -> None:
        self._streams = streams
        self._max_bytes = streams.calls.intake.max_message_bytes  # a stream's requests and answers
        self._origin = origin
        self._query = query
        self._in_thread = in_thread
        self._changed = asyncio.Event()
        self._unanswered: deque[StreamCall] = deque()
        self._held = 0  # bytes of the queued requests and of the computed answers
        self._computing = 0  # the number of calls without an outcome
        self._expected = self._max_bytes // FIRST_SHARE  # the estimated bytes of an answer that is not computed yet
        self._finished = False  # whether the client has sent everything, or a message that ends the stream
        self._read_error: Exception | None = None
        self._stopped = False

    async def read(self, requests: AsyncIterator[Any]) -> None:
        """Submit each request as it arrives, until the client has sent all of them or the stream ends."""
        try:
            async for request in requests:
                size = request.ByteSize()
                await self._until(partial(self._ends_or_has_room, size))
                if self._stopped:
                    return
                call = StreamCall(self._streams.calls, self._origin)
                call.request, call.size = request, size
                call.model_name, call.model_version = request.model_name, request.model_version
                call.ended.add_done_callback(partial(self._completed, call))
                self._unanswered.append(call)
                self._held += size
                self._computing += 1
                self._changed.set()
                query = partial(self._query, request)
                if self._in_thread or size >= LARGE_MESSAGE:
                    # Read the next request only when this request is decoded, which limits the memory of decoded
                    # inputs.
                    await asyncio.wrap_future(submit_on_thread([call], [query]))
                else:
                    submit(call, query)
        except grpc.aio.BaseError:  # the call has ended
            return
        except Exception as error:
            self._read_error = error
        self._finished = True
        self._changed.set()

    async def outcomes(self) -> AsyncIterator[StreamCall]:
        """Yield the calls in order, each after it has ended. After the answers to all requests that were read, raises
        UnavailableError if the server is stopping, and InvalidRequestError if the client sent bytes that are not a
        message."""
        calls = self._unanswered
        while True:
            await self._until(lambda: calls[0].answer_size is not None if calls else self._finished or self._stopped)
            if not calls:
                break
            call = calls.popleft()
            self._held -= call.size + (call.answer_size or 0)
            self._changed.set()
            yield call
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
        self.stop()
        for call in self._unanswered:
            call.cancel()
        self._unanswered.clear()

    def _completed(self, call: StreamCall, _ended: "asyncio.Future[None]") -> None:
        self._computing -= 1
        call.answer_size = 0
        if not isinstance(call.outcome, Exception):
            call.answer_size = call.outcome.ByteSize()
            self._held += call.answer_size
            # After a large answer, each smaller answer halves the estimate, so that the large answer delays few later
            # requests.
            self._expected = max(call.answer_size, self._expected // 2)
        self._changed.set()

    def _ends_or_has_room(self, size: int) -> bool:
        answers = (self._computing + 1) * self._expected
        has_room = len(self._unanswered) < self._streams.window and self._held + answers + size <= self._max_bytes
        return has_room or not self._unanswered or self._stopped

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
