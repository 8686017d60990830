"""All open streams of a server: how many there may be, and how they end when the server stops."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeVar

from hangtag.serving.server.errors import QueueFullError, UnavailableError
from hangtag.serving.server.transport.call import LARGE_MESSAGE, Origin, Query
from hangtag.serving.server.transport.grpc.calls import Context, call_deadline
from hangtag.serving.server.transport.grpc.streams.ordered_stream import OrderedStream
from hangtag.serving.server.transport.queries.loop_calls import LoopCall, LoopCalls

Request = TypeVar("Request")
Response = TypeVar("Response")


class OpenStreams:
    """Answers the streams of a server. To be used on the event loop alone."""

    def __init__(self, calls: LoopCalls, window: int, max_bytes: int, max_streams: int) -> None:
        """Set the limits of each stream.

        Args:
            calls: Submits the requests.
            window: How many requests of one stream may be unanswered at once.
            max_bytes: How large these and their answers may be altogether; a single one may be larger.
            max_streams: How many streams may be open at once.
        """
        self._calls = calls
        self._window = window
        self._max_bytes = max_bytes
        self._max_streams = max_streams
        self._streams: set[OrderedStream[Any]] = set()
        self._readers: set[asyncio.Task[None]] = set()  # asyncio itself keeps weak references only
        self._stopped = False
        self.last_end = -math.inf
        """When a stream ended last, by the loop's clock."""

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
        """Answer each request of a stream, in order.

        Args:
            requests: The messages as they come.
            context: The stream's call; its deadline is the deadline of every request.
            origin: What brought the stream.
            query: Makes the query of a request.
            respond: Makes the response of a request's call, which has its outcome; an error of it ends the stream.
            in_thread: Whether decoding takes long, and would hold up the loop, for small requests too.

        Raises:
            QueueFullError: Too many streams are open.
            UnavailableError: The server stops, after everything that was read is answered.
            InvalidRequestError: The client sent bytes that are not a message, likewise.
        """
        deadline = call_deadline(context)

        def call(request: Request) -> LoopCall:
            return LoopCall(self._calls, query(request), origin, deadline)

        async def submit(call: LoopCall, size: int) -> None:
            await self._calls.submit(call, in_thread=in_thread or size >= LARGE_MESSAGE)

        stream = OrderedStream(self._window, self._max_bytes, call)
        self._add(stream)
        # The reader is not cancelled: it ends with the call. grpcio would not free a message that comes for a read
        # that was cancelled.
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
        """Read nothing more; each stream ends once it has answered what it has read. New streams are refused."""
        self._stopped = True
        for stream in self._streams:
            stream.stop()

    def _add(self, stream: OrderedStream[Any]) -> None:
        if self._stopped:
            raise UnavailableError("the server is stopping and takes no new streams; try another replica")
        # The reader of a stream that has ended may wait until its last message is decoded, which takes memory so long.
        if max(len(self._streams), len(self._readers)) >= self._max_streams:
            raise QueueFullError(f"{self._max_streams} streams are open; use one of them, or calls without a stream")
        self._streams.add(stream)
