"""One gRPC channel for an event loop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import Message

from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.grpc_connection import GrpcConnection
from hangtag.serving.connection.method import Method, Response, keep_costs
from hangtag.serving.credentials import Credentials

_ACCEPTED_SECONDS = 0.1
"""A call that is cancelled is not reset before this many seconds after its beginning."""
_BETWEEN_RESETS = 0.001
"""The least number of seconds between two resets of one channel.

gRPC ends a cancelled call by resetting its stream. If more than 20 streams are reset before a server has accepted them,
the server assumes a rapid reset attack (CVE-2023-44487), and the HTTP/2 library of hangtag's native transport ends the
connection with every call on it. Calls that are cancelled as soon as they begin can reach this limit, because the
server may receive all of them in one read. Therefore the client waits until a server that still works has accepted the
call. A call above the server's limit on streams begins only when another call ends. Therefore, the client also waits
between two resets."""
_END: Any = object()


class AioConnection:
    """``GrpcConnection`` for asyncio. gRPC's own threads make the calls, and the tasks wait for them.

    The arguments and exceptions of construction are those of ``GrpcConnection``.
    """

    def __init__(self, address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> None:
        self._timeout = timeout
        self._connection = GrpcConnection(address, timeout, credentials, options)
        self._last_reset = 0.0

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._connection.close()

    async def call(self, method: Method[Response], request: Message, timeout: float | None = None) -> Response:
        """Make one call and return its response. See ``GrpcConnection.call``."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def end(_call: object) -> None:
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(ended.set)

        began = loop.time()
        call: Any = self._connection.begin(method, request, timeout)
        call.add_done_callback(end)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            self._reset(call, began)
            raise
        if call.code() is not grpc.StatusCode.OK:
            seconds = self._timeout if timeout is None else timeout
            # ``explained`` runs in a thread, because it may open other connections to find the cause.
            raise await asyncio.to_thread(self._connection.explained, call, method, seconds) from call
        response: Response = call.result()
        keep_costs(response, call.trailing_metadata())
        return response

    async def stream(
        self, method: Method[Response], requests: AsyncIterable[Message], timeout: float | None
    ) -> AsyncGenerator[Response, None]:
        """Yield a stream's responses. See ``GrpcConnection.stream``.

        The event loop reads the requests, and a thread waits for each response.
        """
        loop = asyncio.get_running_loop()
        iterator = aiter(requests)
        reading: Future[Any] = Future()
        ended = False

        async def next_request() -> Any:
            return await anext(iterator, _END)

        def outgoing() -> Iterator[Message]:
            nonlocal reading
            while not ended:
                reading = asyncio.run_coroutine_threadsafe(next_request(), loop)
                if ended:
                    reading.cancel()
                try:
                    if (request := reading.result()) is _END:
                        return
                except CancelledError:
                    if ended:
                        return
                    raise
                yield request

        began = loop.time()
        call, responses = self._connection.begin_stream(method, outgoing(), timeout)
        thread = ThreadPoolExecutor(1, "responses")
        try:
            while (response := await loop.run_in_executor(thread, next, responses, _END)) is not _END:
                yield response
        finally:  # the caller may have stopped reading
            ended = True
            reading.cancel()
            self._reset(call, began)
            thread.shutdown(wait=False)

    def _reset(self, call: grpc.Call, began: float) -> None:
        """Cancel a call when the server has accepted it. The call began at ``began``, by the event loop's clock."""
        if call.is_active():
            self._last_reset = max(began + _ACCEPTED_SECONDS, self._last_reset + _BETWEEN_RESETS)
            asyncio.get_running_loop().call_at(self._last_reset, call.cancel)
