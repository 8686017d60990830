"""Connections over HTTP/1.1 for asyncio: requests, deadlines, retries and errors."""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import islice
from typing import Any

import grpc
import httpcore2
import httpx2
from google.protobuf.message import Message

from hangtag.protos import classifier_pb2, inference_pb2, methods
from hangtag.serving import address as server_address
from hangtag.serving.connection import errors, proxy
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.http import failures
from hangtag.serving.connection.http.asyncio_network import Network
from hangtag.serving.connection.http.http_methods import ROUTES, HttpAnswer, HttpRequest
from hangtag.serving.connection.method import Method, Response, keep_costs
from hangtag.serving.credentials import Credentials, CredentialsError

IN_FLIGHT = 16
"""The largest number of calls that one stream has in flight. The server can batch calls that are in flight together."""
_END: Any = object()
_LONGEST = 2**63 - 1  # the longest timeout that the server accepts, in microseconds
OF_STREAM: dict[str, Method[Any]] = {
    methods.CLASSIFY_STREAM: Method(methods.CLASSIFY, classifier_pb2.ClassifyResponse),
    methods.MODEL_STREAM_INFER: Method(methods.MODEL_INFER, inference_pb2.ModelInferResponse),
}
"""The method of a stream -> the method to call for each of the stream's requests, because HTTP has no streams."""
# These failures concern more than one request, so they end a stream, over HTTP and over gRPC alike.
_ENDS_STREAM = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
)


class AsyncHttpConnection:
    """Connections to one server, for the tasks of one event loop. Each call in flight has its own connection.

    See ``GrpcConnection`` for the methods. The arguments and exceptions of construction are those of ``connect``.
    """

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
        self._proxy = proxy.for_url(address)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=credentials.ssl_context(address) or _system_context(address),
            proxy=None if self._proxy is None else _of_httpcore2(self._proxy.url),
            max_connections=None,  # no limit, so that tasks do not wait for connections
            max_keepalive_connections=256,
            keepalive_expiry=5.0,
            network_backend=Network(),
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Timeout] = set()
        self._answered = False
        self.closed = False

    async def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        self.closed = True
        for timeout in self._waiting:
            if not timeout.expired():
                timeout.reschedule(0)
        await self._pool.aclose()

    async def call(self, method: Method[Response], request: Message, timeout: float | None = None) -> Response:
        """Make one call and return its response. See ``GrpcConnection.call``."""
        seconds = self._timeout if timeout is None else timeout
        return await self._call(method, request, seconds, _now() + seconds)

    async def stream(
        self, method: Method[Response], requests: AsyncIterable[Message], timeout: float | None
    ) -> AsyncGenerator[Any, None]:
        """Make a separate call for each request, and yield each call's response or ClientError, in order.

        Several calls are in flight at the same time.
        """
        ends = None if timeout is None else _now() + timeout
        iterator = aiter(requests)

        async def read() -> Any:
            try:
                return await anext(iterator, _END)
            except Exception as error:  # raised after the answers to all earlier requests
                return error

        async def call(request: Message) -> Any:
            try:
                return await self._call(OF_STREAM[method.path], request, timeout, ends, stream=True)
            except ClientError as error:
                if error.code in _ENDS_STREAM:
                    raise
                return error

        reading: asyncio.Future[Any] | None = asyncio.ensure_future(read())
        calls: deque[asyncio.Future[Any]] = deque()
        last: Any = _END
        try:
            while reading or calls:
                may_begin = reading is not None and len(calls) < IN_FLIGHT
                waiting = [*([reading] if reading and may_begin else []), *islice(calls, 1)]
                async with self._in_time(timeout, ends, stream=True):
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if reading and may_begin and reading.done():
                    request, reading = reading.result(), None
                    if request is _END or isinstance(request, Exception):
                        last = request
                    else:
                        calls.append(asyncio.ensure_future(call(request)))
                        reading = asyncio.ensure_future(read())
                elif calls[0].done():
                    yield calls.popleft().result()
        finally:
            unfinished = [*calls, *([reading] if reading else [])]
            for each in unfinished:
                each.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
        if last is not _END:
            raise last

    async def _call(
        self,
        method: Method[Response],
        message: Message,
        seconds: float | None,
        ends: float | None,
        *,
        stream: bool = False,
    ) -> Response:
        """Make one call, with its retries. The arguments are those of ``_in_time``."""
        pauses = [*self._options.retry_pauses(method)]
        try:
            async with self._in_time(seconds, ends, stream=stream):
                while True:
                    try:
                        return await self._attempt(method, message, ends)
                    except (ClientError, *failures.BROKEN) as error:
                        repeated = not isinstance(error, ClientError) or error.code is grpc.StatusCode.UNAVAILABLE
                        if self.closed or not pauses or not repeated:
                            raise
                        pause = pauses.pop(0)
                        if ends is not None and _now() + pause >= ends:
                            why = failures.reason(error)
                            raise errors.too_late(self._address, seconds, why, stream=stream) from error
                        await asyncio.sleep(pause)
        except failures.BROKEN as error:
            if self.closed:
                raise errors.ClosedError() from error
            # ``_explained`` runs in a thread, because it may open other connections to find the cause.
            raise await asyncio.to_thread(self._explained, error, method) from error

    @asynccontextmanager
    async def _in_time(self, seconds: float | None, ends: float | None, *, stream: bool) -> AsyncIterator[None]:
        """Context in which waiting ends with a ClientError when the deadline passes or the connection is closed.

        Args:
            seconds: the deadline of the call or of its stream in seconds, for the error message; None for no deadline.
            ends: when the deadline passes, by the event loop's clock.
            stream: whether the call is a stream, or belongs to one.
        """
        if self.closed:
            raise errors.ClosedError()
        running = asyncio.get_running_loop()
        self._loop = self._loop or running
        if self._loop is not running:
            raise RuntimeError("this AsyncClient belongs to another event loop; create one for each event loop")
        try:
            async with asyncio.timeout_at(ends) as timeout:
                self._waiting.add(timeout)
                try:
                    yield
                finally:
                    self._waiting.discard(timeout)
        except (TimeoutError, ClientError) as error:
            if self.closed:
                raise errors.ClosedError() from error
            if isinstance(error, ClientError):
                raise
            raise errors.too_late(self._address, seconds, stream=stream) from error

    async def _attempt(self, method: Method[Response], message: Message, ends: float | None) -> Response:
        timeout = None if ends is None else min(max(round((ends - _now()) * 1e6), 1), _LONGEST)
        route = ROUTES[method.path]
        request = route.encode(message, timeout)
        sent = self._sent(request)
        if ends is not None:
            sent.extensions = {"timeout": {"connect": ends - _now()}}
        answer = await self._exchange(sent)
        self._answered = True
        if not route.answers(answer, message):
            raise failures.refused(answer, method, request, self._address)
        with errors.reading(self._address):
            response: Response = route.decode(answer, message)
            keep_costs(response, answer.headers.items())
        return response

    def _sent(self, request: HttpRequest) -> httpcore2.Request:
        """Return the request to send, with the token. Raises CredentialsError."""
        url = self._url
        headers: dict[Any, Any] = {
            "host": url.netloc.decode("ascii"),
            "user-agent": "hangtag",
            "accept-encoding": "identity",  # answers are too small to be worth compressing
            **request.headers,
            **dict(self._credentials.metadata()),
        }
        if request.verb == "POST":
            headers["content-length"] = str(len(request.body))
        target = url.raw_path.rstrip(b"/") + b"/" + request.path.encode()
        to = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=target)
        return httpcore2.Request(request.verb, to, headers=headers, content=request.body)

    async def _exchange(self, request: httpcore2.Request) -> HttpAnswer:
        """Send a request and read the answer. Raises ClientError as soon as the answer exceeds the client's limit."""
        response = await self._pool.handle_async_request(request)
        try:
            headers = {name.decode().lower(): value.decode(errors="replace") for name, value in response.headers}
            self._require_size(int(headers.get("content-length", 0)))
            pieces: list[bytes] = []
            size = 0
            async with aclosing(response.aiter_stream()) as stream:
                async for piece in stream:
                    pieces.append(piece)
                    size += len(piece)
                    self._require_size(size)
        finally:
            await response.aclose()
        return HttpAnswer(response.status, headers, b"".join(pieces))

    def _require_size(self, size: int) -> None:
        limit = self._options.max_message_bytes
        if limit is not None and size > limit:
            message = f"the answer is larger than max_message_mib allows ({size:,} vs. {limit:,} bytes)"
            raise ClientError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)

    def _explained(self, error: failures.Broken, method: Method[Any]) -> ClientError:
        """Return the error of a call that got no answer. Finding the cause may take seconds; see ``diagnose``."""
        # If a call was answered before, the protocol and the certificates are right: only this connection broke.
        known = self._answered and self._proxy is None and not isinstance(error, httpcore2.ConnectError)
        return failures.broken(error, self._address, method, None if known else self._credentials)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _of_httpcore2(proxy_url: str) -> httpcore2.Proxy:
    url = httpx2.Proxy(proxy_url)  # Proxy removes the user and the password from the URL
    return httpcore2.Proxy(str(url.url), url.raw_auth)


def _system_context(address: str) -> ssl.SSLContext | None:
    """Load the authorities that the system trusts, for an https:// server if ``tls_ca`` is not given.

    Raises CredentialsError.
    """
    if not address.lower().startswith("https:"):
        return None
    try:
        return httpcore2.default_ssl_context()
    except OSError as error:
        raise CredentialsError(
            f"the authorities that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read ({error.strerror or error}): "
            "correct or unset the variable, or give --tls-ca"
        ) from error
