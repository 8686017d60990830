"""Streams of requests: the requests of one stream share batches and are answered in order.

Two coroutines work on a stream:

- The *reader* (`read`, in a separate task) takes each request from gRPC, appends a call to the stream's queue, and
  submits the call, without waiting for earlier answers.
- The *writer* (`outcomes`, in the task of the stream) takes the first call from the queue after the call has ended.

Back-pressure: the reader waits while the queue holds ``window`` calls, or ``max_bytes`` of requests and answers. The
size of an answer that is not computed yet is estimated from earlier answers. If answers turn out larger than estimated,
the queue holds more than max_bytes, but at most ``window`` answers. gRPC's flow control stops the writer while the
client does not read, so the server soon stops reading from such a client. If the queue is empty, the reader takes a
request of any size, so no stream waits for ever.

Cancellation: when the client cancels or disconnects, or the deadline passes, grpcio cancels the writer's task. The
writer then cancels every query that has not ended, and the reader ends.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc

from hangtag.serving.server.errors import QueueFullError, UnavailableError
from hangtag.serving.server.wire.event_loop import LoopCall, LoopCalls
from hangtag.serving.server.wire.intake import Origin
from hangtag.serving.server.wire.transport_call import LARGE_MESSAGE, Query, submit, submit_on_thread

_FIRST_SHARE = 5
"""Until a stream has answered a request, each answer is assumed to take a fifth of the stream's memory limit."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Request = TypeVar("Request")


class OpenStreams:
    """Answers the streams of a server. Use this object only on the event loop."""

    def __init__(self, calls: LoopCalls) -> None:
        self.calls = calls
        config = calls.intake.engine.config
        self.window = min(config.max_queue_size, 2 * config.max_batch_size)
        """How many requests of a stream may be unanswered at the same time. This is enough to fill the next batch while
        another batch is computed, but no more than the model's queue holds."""
        self._max_streams = config.limits.max_streams
        self._streams: set[_Stream] = set()
        self._stopped = False

    async def answer(
        self,
        requests: AsyncIterator[Request],
        context: Context,
        origin: Origin,
        query: Callable[[Request], Query],
        respond: Callable[["StreamCall"], object],
        *,
        in_thread: bool = False,
    ) -> None:
        """Answer each request of a stream, in order. Every request has the stream's deadline, which is in ``origin``.
        ``query`` turns a request into a `Query`. ``respond`` makes the response from a call that has ended. If
        ``respond`` raises an error, the stream ends. With ``in_thread``, even small requests are decoded on a thread.
        Raises QueueFullError if too many streams are open, and the errors of `_Stream.outcomes`."""
        if self._stopped:
            raise UnavailableError("the server is stopping and takes no new streams; try another replica")
        if len(self._streams) >= self._max_streams:
            raise QueueFullError(f"{self._max_streams} streams are open; use one of them, or calls without a stream")
        stream = _Stream(self)
        self._streams.add(stream)
        # The reader ends with the call, and is not cancelled, because grpcio would not free a message that arrives for
        # a cancelled read. asyncio has only a weak reference to the task.
        stream.reader = asyncio.create_task(stream.read(requests, origin, query, in_thread=in_thread))
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


class StreamCall(LoopCall):
    request: Any
    stream: "_Stream"
    held: int
    """Bytes of the request and of its answer. The answer's size is estimated until the call has ended."""
    has_ended = False

    def resolve(self) -> None:
        self.has_ended = True
        self.stream.completed(self)


class _Stream:
    """The unanswered requests of one stream, in order."""

    reader: "asyncio.Task[None]"

    def __init__(self, streams: OpenStreams) -> None:
        self._calls, self._window = streams.calls, streams.window
        self._max_bytes = streams.calls.intake.max_message_bytes  # the memory limit of a stream's requests and answers
        self._changed = asyncio.Event()
        self._unanswered: deque[StreamCall] = deque()
        self._held = 0  # the sum of ``held`` of the unanswered calls
        self._expected = self._max_bytes // _FIRST_SHARE  # the estimated bytes of an answer that is not computed yet
        self._finished = False  # whether the client has finished sending, or has sent a malformed message
        self._read_error: Exception | None = None
        self._stopped = False

    async def read(
        self, requests: AsyncIterator[Any], origin: Origin, query: Callable[[Any], Query], *, in_thread: bool
    ) -> None:
        """Submit each request as it arrives, until the client has sent all of them or the stream ends."""
        try:
            async for request in requests:
                size = request.ByteSize()
                while not self._ends_or_has_room(size):
                    await self._change()
                if self._stopped:
                    return
                call = StreamCall(self._calls, origin)
                call.request, call.stream, call.held = request, self, size + self._expected
                call.model_name, call.model_version = request.model_name, request.model_version
                self._unanswered.append(call)
                self._held += call.held
                self._changed.set()
                read = partial(query, request)
                if in_thread or size >= LARGE_MESSAGE:
                    # Read the next request only when this one is decoded, to limit the memory of decoded inputs.
                    await asyncio.wrap_future(submit_on_thread([call], [read]))
                else:
                    submit(call, read)
        except grpc.aio.BaseError:  # the call has ended
            return
        except Exception as error:
            self._read_error = error
        self._finished = True
        self._changed.set()

    async def outcomes(self) -> AsyncIterator[StreamCall]:
        """Yield the calls in order, each after it has ended. At the end, raises UnavailableError if the server is
        stopping, and InvalidRequestError if the client sent bytes that are not a message."""
        calls = self._unanswered
        while calls or not (self._finished or self._stopped):
            if not calls or not calls[0].has_ended:
                await self._change()
                continue
            call = calls.popleft()
            self._held -= call.held
            self._changed.set()
            yield call
        error, self._read_error = self._read_error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # see `LoopCall.response`
        if not self._finished:
            raise UnavailableError(
                "the server is stopping; send the unanswered requests on a new stream to another replica"
            )

    def completed(self, call: StreamCall) -> None:
        answer = 0 if isinstance(call.outcome, Exception) else call.outcome.ByteSize()
        held = call.request.ByteSize() + answer
        self._held += held - call.held
        call.held = held
        if answer:
            # After a large answer, each smaller answer halves the expected size, so that only a few requests must wait.
            self._expected = max(answer, self._expected // 2)
        self._changed.set()

    def stop(self) -> None:
        self._stopped = True
        self._changed.set()

    def leave(self) -> None:
        """End the stream, and cancel the calls that are still queued."""
        self.stop()
        for call in self._unanswered:
            call.cancel()
        self._unanswered.clear()

    def _ends_or_has_room(self, size: int) -> bool:
        has_room = len(self._unanswered) < self._window and self._held + self._expected + size <= self._max_bytes
        return has_room or not self._unanswered or self._stopped

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
