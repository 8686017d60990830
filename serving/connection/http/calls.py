"""Calls over HTTP: requests, deadlines, retries and errors, for threads and for asyncio.

The coroutines here await only a ``Carrier``. The carrier of asyncio awaits in the event loop. The carrier of threads
blocks instead, so ``finished`` can run a coroutine to its end without an event loop. If each blocking client had a
thread with an event loop behind its calls, it would make a third fewer calls a second.
"""

import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import grpc
import httpcore2
import httpx2
from grpc_health.v1 import health_pb2

from hangtag.protos import classifier_pb2, inference_pb2, methods
from hangtag.serving import address as server_address
from hangtag.serving.connection import errors, proxy
from hangtag.serving.connection.diagnosis import diagnose
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.http import failures
from hangtag.serving.connection.http.routes import ROUTES
from hangtag.serving.connection.http.wire import HttpAnswer, HttpRequest
from hangtag.serving.connection.method import Method, Response, keep_costs
from hangtag.serving.connection.options import ConnectionOptions
from hangtag.serving.credentials import Credentials, CredentialsError

Result = TypeVar("Result")
_LONGEST = 2**63 - 1  # microseconds: the longest timeout that the server reads

IN_FLIGHT = 16
"""The largest number of one stream's calls in flight at a time. Calls in flight together let the server batch them."""
OF_STREAM: dict[str, Method[Any]] = {
    methods.CLASSIFY_STREAM: Method(methods.CLASSIFY, classifier_pb2.ClassifyResponse),
    methods.MODEL_STREAM_INFER: Method(methods.MODEL_INFER, inference_pb2.ModelInferResponse),
    methods.WATCH: Method(methods.CHECK, health_pb2.HealthCheckResponse),
}
"""Method of a stream -> the method to call for each of its requests, because HTTP has no streams. Check replaces Watch,
and a wait for readiness repeats the call."""
# Failures that concern more than one request: they end the stream, as they do over gRPC.
_ENDS_STREAM = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
)


@dataclass(frozen=True)
class Deadline:
    """When a call, or a stream, must have ended.

    Attributes:
        seconds: how long the call or stream may take; None for no deadline.
        at: when the deadline passes, as a time of ``time.monotonic()``; None for no deadline.
    """

    seconds: float | None
    at: float | None

    @classmethod
    def after(cls, seconds: float | None) -> "Deadline":
        """Return the deadline that is this many seconds away."""
        return cls(seconds, None if seconds is None else time.monotonic() + seconds)

    def remaining(self) -> float | None:
        """Return the seconds until the deadline, 0 if it has passed; None if there is no deadline."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())


class Carrier(Protocol):
    """The operations that differ between threads and asyncio."""

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""

    async def exchange(self, request: httpcore2.Request, deadline: Deadline) -> HttpAnswer:
        """Send a request, and read its answer with ``HttpCalls.answer``. Raises TimeoutError and failures.BROKEN."""

    async def pause(self, seconds: float, deadline: Deadline) -> None:
        """Wait before an attempt (0 seconds before the first). Raises TimeoutError if the deadline passes meanwhile."""

    async def find_out(self, question: Callable[[], Result]) -> Result:
        """Run a function that may block for seconds, and return its result."""


def finished(call: Coroutine[Any, Any, Result]) -> Result:
    """Run a call whose carrier blocks its thread. The coroutine never suspends, so it ends at its first step."""
    try:
        call.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    raise AssertionError("unreachable: the carrier of threads does not wait for an event loop")


class HttpCalls:
    """Makes calls to one server.

    Args:
        address: http://HOST:PORT or https://HOST:PORT, optionally with a path that precedes the path of each request.
        credentials: a token, and for https:// the authorities to trust instead of the system's.
        options: the retries, and the largest answer.

    Raises:
        AddressError: the address is not a server's URL, or the variable that names its proxy is not a proxy's URL.
        CredentialsError: a TLS file cannot be read, or is given for an http:// address.

    Attributes:
        address: the server's address.
        pool_settings: the arguments for httpcore2's pools of connections.
    """

    def __init__(self, address: str, credentials: Credentials, options: ConnectionOptions) -> None:
        server_address.require(address)
        try:
            self._url = httpx2.URL(address)
        except httpx2.InvalidURL as error:
            raise server_address.AddressError(f"{address!r} is not a server's URL: {error}") from error
        self.address = address
        self._credentials = credentials
        self._options = options
        self._answered = False
        self._proxy = proxy.for_url(address)
        self.pool_settings: dict[str, Any] = {
            "ssl_context": credentials.ssl_context(address) or _system_context(address),
            "proxy": None if self._proxy is None else _of_httpcore2(self._proxy.url),
            # One connection for each call in flight: threads and tasks do not wait for each other.
            "max_connections": None,
            "max_keepalive_connections": 256,
            "keepalive_expiry": 5.0,
        }

    async def call(self, carrier: Carrier, method: Method[Response], message: Any, deadline: Deadline) -> Response:
        """Make one call, with its retries, and return its response. Raises ClientError and CredentialsError."""
        pauses = [*self._options.retry_pauses(method)]
        pause = 0.0
        while True:
            try:
                await carrier.pause(pause, deadline)
                return await self._attempt(carrier, method, message, deadline)
            except TimeoutError as error:
                late = errors.too_late(self.address, deadline.seconds)
                raise (errors.closed() if carrier.closed else late) from error
            except (ClientError, *failures.BROKEN) as error:
                if carrier.closed:
                    raise errors.closed() from error
                if isinstance(error, ClientError) and (error.code is not grpc.StatusCode.UNAVAILABLE or not pauses):
                    raise
                if not pauses:
                    raise await carrier.find_out(partial(self._explained, error, method)) from error
                pause, remaining = pauses.pop(0), deadline.remaining()
                if remaining is not None and pause >= remaining:
                    raise errors.too_late(self.address, deadline.seconds, failures.reason(error)) from error

    async def call_of_stream(
        self, carrier: Carrier, method: Method[Response], message: Any, deadline: Deadline
    ) -> Response | ClientError:
        """Make the call for one request of a stream, and return its response, or its ClientError.

        Raises the ClientError if the failure ends the stream.
        """
        try:
            return await self.call(carrier, method, message, deadline)
        except ClientError as error:
            if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise errors.stream_too_late(self.address, deadline.seconds) from error
            if error.code in _ENDS_STREAM or method.path == methods.CHECK:
                raise
            return error

    def answer(self, response: httpcore2.Response) -> "Arriving":
        """Begin to read an answer whose head has arrived. Raises ClientError if the head announces too large a body."""
        return Arriving(response, self._options.max_message_bytes)

    async def _attempt(self, carrier: Carrier, method: Method[Response], message: Any, deadline: Deadline) -> Response:
        remaining = deadline.remaining()
        timeout = None if remaining is None else min(max(round(remaining * 1e6), 1), _LONGEST)
        route = ROUTES[method.path]
        request = route.encode(message, timeout)
        answer = await carrier.exchange(self._sent(request), deadline)
        self._answered = True
        if not route.answers(answer, message):
            raise failures.refused(answer, method, request, self.address)
        with errors.reading(self.address):
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

    def _explained(self, error: failures.Broken, method: Method[Any]) -> ClientError:
        """Return the error of a call that got no answer. Finding the cause may take seconds; see ``diagnose``."""
        if self._proxy is not None:
            explanation = self._proxy.failure(self.address, failures.reason(error))
        elif failures.host_is_unknown(error):
            explanation = f"the host of {self.address} is unknown; name the server with --server http://HOST:PORT"
        elif self._answered and not isinstance(error, httpcore2.ConnectError):
            explanation = ""  # the protocol and the certificates are right: only this connection broke
        else:
            explanation = diagnose(self.address, self._credentials)
        return failures.broken(error, self.address, method, explanation)


class Arriving:
    """An answer whose body arrives in pieces. Raises ClientError as soon as the body exceeds the client's limit."""

    def __init__(self, response: httpcore2.Response, limit: int | None) -> None:
        self._status = response.status
        self._headers = {name.decode("latin-1").lower(): _text(value) for name, value in response.headers}
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        self._require(int(self._headers.get("content-length", 0)))

    def add(self, piece: bytes) -> None:
        """Append the next piece of the body."""
        self._pieces.append(piece)
        self._size += len(piece)
        self._require(self._size)

    def complete(self) -> HttpAnswer:
        """Return the answer, whose body is complete."""
        return HttpAnswer(self._status, self._headers, b"".join(self._pieces))

    def _require(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise failures.too_large(size, self._limit)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _of_httpcore2(proxy_url: str) -> httpcore2.Proxy:
    url = httpx2.Proxy(proxy_url)  # Proxy removes the user and the password from the URL
    return httpcore2.Proxy(str(url.url), url.raw_auth)


def _system_context(address: str) -> ssl.SSLContext | None:
    """Load the system's authorities, for an https:// server without ``tls_ca``. Raises CredentialsError."""
    if not address.lower().startswith("https:"):
        return None
    try:
        return httpcore2.default_ssl_context()
    except OSError as error:
        raise CredentialsError(
            f"the authorities that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read ({error.strerror or error}): "
            "correct or unset the variable, or give --tls-ca"
        ) from error
