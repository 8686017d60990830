"""Connections over HTTP/1.1 for asyncio: requests, deadlines, retries and errors."""

import asyncio
import itertools
import os
import ssl
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import grpc
import httpcore2
import httpx2
from google.protobuf.message import Message

from hangtag.serving import address as server_address
from hangtag.serving.connection import failures
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.errors import ClientError, ClosedError, reading
from hangtag.serving.connection.http.asyncio_network import Network
from hangtag.serving.connection.http.http_methods import ROUTES, HttpAnswer, HttpRequest, refusal
from hangtag.serving.connection.http.proxy import proxy_of
from hangtag.serving.connection.method import Method, Response, keep_costs
from hangtag.serving.credentials import Credentials

IN_FLIGHT = 16
"""The largest number of calls that one stream has in flight. The server can batch calls that are in flight together."""
_END: Any = object()
_LONGEST = 2**63 - 1  # the longest timeout that the server accepts, in microseconds
# A failure with one of these codes concerns more than one request, so it ends a stream, as over gRPC.
_ENDS_STREAM = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
)
# UnicodeError means that the host name is not a valid DNS name.
_UNCONNECTED = (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.ProxyError, UnicodeError)
# The exceptions for a call that got no answer. asyncio raises SSLError if a TLS alert arrives late.
_BROKEN = (*_UNCONNECTED, httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, ssl.SSLError)


class AsyncHttpConnection:
    """Connections to one server, for the tasks of one event loop. Each call in flight has its own connection."""

    def __init__(self, address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> None:
        server_address.require(address)
        try:
            self._url = httpx2.URL(address)
        except httpx2.InvalidURL as error:
            raise server_address.AddressError(f"{address!r} is not a server's URL: {error}") from error
        self._address = address
        self._timeout = timeout
        self._credentials = credentials
        self._options = options
        self._proxy, proxy = proxy_of(address)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=credentials.ssl_context(address),
            proxy=proxy,
            max_connections=None,  # no limit, so that tasks do not wait for connections
            max_keepalive_connections=256,
            keepalive_expiry=5.0,
            network_backend=Network(),
        )
        self._loop: asyncio.AbstractEventLoop | None = None  # the event loop of the first call, and its process
        self._process: int | None = None
        self._waiting: set[asyncio.Timeout] = set()
        self._answered = False
        self.closed = False

    async def close(self) -> None:
        """Close the connections; calls in flight are cancelled. After a fork, the parent's connections stay open."""
        self.closed = True
        if self._process not in (None, os.getpid()):
            return
        for timeout in self._waiting:
            if not timeout.expired():
                timeout.reschedule(0)
        await self._pool.aclose()

    async def call(self, method: Method[Response], request: Message, timeout: float | None = None) -> Response:
        """See ``GrpcConnection.call``."""
        seconds = self._timeout if timeout is None else timeout
        return await self._call(method, request, seconds, _now() + seconds)

    async def stream(
        self, method: Method[Any], requests: AsyncGenerator[Message, None], timeout: float | None
    ) -> AsyncGenerator[Any, None]:
        """Make a separate call for each request, several calls at the same time. Yield each call's response or
        ClientError, in the order of the requests."""
        ends = None if timeout is None else _now() + timeout
        begun: deque[asyncio.Future[Any]] = deque()
        request: asyncio.Future[Any] = asyncio.ensure_future(anext(requests, _END))
        ended = False

        async def call(message: Message) -> Any:
            try:
                return await self._call(method.single or method, message, timeout, ends)
            except ClientError as error:
                if error.code in _ENDS_STREAM:
                    raise
                return error

        try:
            while begun or not ended:
                reads = not ended and len(begun) < IN_FLIGHT
                async with self._in_time(timeout, ends):
                    awaited = [*itertools.islice(begun, 1), *([request] if reads else [])]
                    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                if reads and request.done():
                    ended = request.cancelled() or request.exception() is not None or request.result() is _END
                    if not ended:
                        begun.append(asyncio.ensure_future(call(request.result())))
                        request = asyncio.ensure_future(anext(requests, _END))
                if begun and begun[0].done():
                    yield begun.popleft().result()
            request.result()  # re-raises an exception of ``requests``, after all earlier answers
        finally:  # the caller may have stopped reading the answers
            for each in (request, *begun):
                each.cancel()
            await asyncio.gather(request, *begun, return_exceptions=True)
            await requests.aclose()

    async def _call(
        self, method: Method[Response], message: Message, seconds: float | None, ends: float | None
    ) -> Response:
        """Make one call, with its retries. See ``_in_time`` for ``seconds`` and ``ends``."""
        pauses = self._options.retry_pauses(method)
        try:
            async with self._in_time(seconds, ends):
                while True:
                    try:
                        return await self._attempt(method, message, ends)
                    except (ClientError, *_BROKEN) as error:
                        repeated = not isinstance(error, ClientError) or error.code is grpc.StatusCode.UNAVAILABLE
                        pause = next(pauses, None)
                        if self.closed or pause is None or not repeated:
                            raise
                        if ends is not None and _now() + pause >= ends:
                            raise failures.too_late(self._address, seconds, _reason(error)) from error
                        await asyncio.sleep(pause)
        except _BROKEN as error:
            if self.closed:
                raise ClosedError() from error
            connected = not isinstance(error, _UNCONNECTED)
            # If a call was answered before, the protocol and the certificates are right: only this connection broke.
            credentials = None if connected and self._answered else self._credentials
            arguments = self._address, method, _reason(error), connected, credentials, self._proxy
            # ``unanswered`` runs in a thread, because it may open other connections to find the cause.
            raise await asyncio.to_thread(failures.unanswered, *arguments) from error

    @asynccontextmanager
    async def _in_time(self, seconds: float | None, ends: float | None) -> AsyncIterator[None]:
        """Context in which waiting ends with a ClientError when the connection is closed, or when the deadline passes.

        ``seconds`` is the time limit of the call or its stream. It expires at ``ends`` on the event loop's clock.
        """
        if self.closed:
            raise ClosedError()
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._process = running, os.getpid()
            weakref.finalize(self, _abandon, self._pool, running, self._process).atexit = False
        if self._loop is not running:
            raise RuntimeError("this client belongs to another event loop or process; create one for each")
        try:
            async with asyncio.timeout_at(ends) as timeout:
                self._waiting.add(timeout)
                try:
                    yield
                finally:
                    self._waiting.discard(timeout)
        except (TimeoutError, ClientError) as error:
            if self.closed:
                raise ClosedError() from error
            if isinstance(error, ClientError):
                raise
            raise failures.too_late(self._address, seconds) from error

    async def _attempt(self, method: Method[Response], message: Message, ends: float | None) -> Response:
        seconds = None if ends is None else ends - _now()
        route = ROUTES[method.path]
        request = route.encode(message, None if seconds is None else min(max(round(seconds * 1e6), 1), _LONGEST))
        answer = await self._exchange(request, seconds)
        self._answered = True
        if not route.answers(answer, message):
            raise refusal(answer, method, request, self._address)
        with reading(self._address):
            response: Response = route.decode(answer, message)
            keep_costs(response, answer.headers.items())
        return response

    async def _exchange(self, request: HttpRequest, seconds: float | None) -> HttpAnswer:
        """Send a request with the token, and read the answer. ``seconds`` limits the time for connecting."""
        url = self._url
        headers: dict[Any, Any] = {
            "host": url.netloc.decode("ascii"),
            "user-agent": "hangtag",
            "accept-encoding": "identity",  # answers are too small to be worth compressing
            **request.headers,
            **dict(self._credentials.metadata()),
        }
        target = url.raw_path.rstrip(b"/") + b"/" + request.path.encode()
        to = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=target)
        content = request.body if request.verb == "POST" else None
        limits = {"timeout": {"connect": seconds}}
        largest = self._options.max_message_bytes
        pieces: list[bytes] = []
        size = 0
        async with self._pool.stream(request.verb, to, headers=headers, content=content, extensions=limits) as response:
            answered = {name.decode().lower(): value.decode(errors="replace") for name, value in response.headers}
            async with aclosing(response.aiter_stream()) as stream:
                async for piece in stream:
                    pieces.append(piece)
                    size += len(piece)
                    if largest is not None and size > largest:
                        message = f"the answer is larger than max_message_mib allows ({largest:,} bytes)"
                        raise ClientError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        return HttpAnswer(response.status, answered, b"".join(pieces))


def _abandon(pool: httpcore2.AsyncConnectionPool, loop: asyncio.AbstractEventLoop, process: int) -> None:
    """Close the connections of a client that was freed without ``close()``, in the process that opened them."""
    if process == os.getpid():
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(lambda: asyncio.ensure_future(pool.aclose()))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
