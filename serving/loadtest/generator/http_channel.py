"""Makes asynchronous HTTP/1.1 calls. A request is a complete HTTP text, which is written to a connection unchanged.

An event loop in a thread owns the connections (uvloop's event loop if uvloop is installed), and httptools (with Node's
parser llhttp) parses the answers. A general client such as httpx2 needs several times as long to make a call, and would
limit the measured throughput.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools

from hangtag.serving import address as server_address
from hangtag.serving.connection.http.http_methods import HttpAnswer, HttpRequest
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.generator.channels import Metadata, OnEnd, clock

LIVE = HttpRequest("GET", "v2/health/live")


def as_text(address: str, request: HttpRequest) -> bytes:
    """Return a request to the server at this URL as raw HTTP text, without credential headers."""
    url = urlsplit(address)
    headers = {"host": url.netloc, **request.headers}
    if request.verb == "POST":
        headers["content-length"] = str(len(request.body))
    lines = [f"{request.verb} {url.path.rstrip('/')}/{request.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + request.body


_run: Callable[..., object] = asyncio.run
with suppress(ImportError):  # uvloop has no wheel for some platforms
    import uvloop

    _run = uvloop.run

_UNAVAILABLE, _DEADLINE_EXCEEDED, _CANCELLED = 14, 4, 1  # gRPC's codes
SWEEP_SECONDS = 0.05  # The seconds between two searches for calls whose deadline has passed.


class HttpChannel:
    """Makes calls to one server, on one connection per call in flight. Later calls reuse idle connections."""

    name = f"HTTP/1.1 on {_run.__module__.partition('.')[0]} and httptools"

    def __init__(self, address: str, credentials: Credentials) -> None:
        """Start the event loop, without opening a connection. `address` is a URL. Raises CredentialsError."""
        self._host, self._port = server_address.endpoint(address) or ("", 0)
        self._tls = credentials.ssl_context(address)
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=_run, args=(self._serve(started),), name="calls", daemon=True)
        self._thread.start()
        self._loop, self._closing = started.result()

    def send(self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd) -> None:
        """See Channel. `request` is a complete HTTP text, to which the headers in `metadata` are added."""
        if metadata:
            line, _, rest = request.partition(b"\r\n")
            pairs = ((name, text.encode() if isinstance(text, str) else text) for name, text in metadata)
            request = b"\r\n".join([line, *(name.encode() + b": " + text for name, text in pairs), rest])
        call = _Call(request, clock() + timeout, token, on_end)
        if threading.current_thread() is self._thread:  # the callback of an earlier call invoked `send`
            self._begin(call)
        else:
            self._loop.call_soon_threadsafe(self._begin, call)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    async def _serve(self, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        closing = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), closing))
        while not closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await closing.wait()
            now = clock()
            for connection in [one for one in self._busy if one.call and one.call.deadline < now]:
                connection.fail(_DEADLINE_EXCEEDED, "no answer within the deadline")
        for connection in [*self._busy, *self._idle]:
            connection.fail(_CANCELLED, "the channel was closed")
        # At the end of this coroutine, the event loop cancels the tasks that open connections.

    def _begin(self, call: "_Call") -> None:
        # The call is timed from here and not from `send`, because the generator causes any delay before this line.
        # The time to open a connection is part of the call, as with gRPC, because the server may accept slowly.
        call.sent = clock()
        if self._idle:
            connection = self._idle.pop()  # the connection used last, because servers close idle connections
            self._busy.add(connection)
            connection.begin(call)
        else:
            opening = asyncio.create_task(self._open(call))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, call: "_Call") -> None:
        try:
            async with asyncio.timeout(max(call.deadline - clock(), 0.0)):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self._idle, self._busy), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            call.end(_DEADLINE_EXCEEDED, "no connection within the deadline")
        except OSError as error:  # includes ssl.SSLError
            call.end(_UNAVAILABLE, f"no connection to {self._host}:{self._port}: {error.strerror or error}")
        except asyncio.CancelledError:
            call.end(_CANCELLED, "the channel was closed")
            raise
        else:
            self._busy.add(connection)
            connection.begin(call)


@dataclass(slots=True, eq=False)
class _Call:
    request: bytes
    deadline: float
    token: Any
    on_end: OnEnd
    sent: float = 0.0  # the time on `clock` at which the call was sent; 0 until then

    def end(self, code: int, details: str, ended: float = 0.0) -> None:
        self.on_end(self.token, self.sent, ended or clock(), code, details)


class _Connection(asyncio.Protocol):
    """A connection that makes one call at a time."""

    def __init__(self, idle: "deque[_Connection]", busy: "set[_Connection]") -> None:
        self._idle, self._busy = idle, busy
        self._transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self.call: _Call | None = None
        self._body = b""
        self._received = 0.0

    def begin(self, call: _Call) -> None:
        self.call = call
        self._transport.write(call.request)

    def fail(self, code: int, details: str) -> None:
        """Close the connection, and end its call if there is one."""
        self._transport.abort()
        self._busy.discard(self)
        with suppress(ValueError):
            self._idle.remove(self)
        call, self.call = self.call, None
        if call is not None:
            call.end(code, details)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received = clock()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(_UNAVAILABLE, f"the answer is not HTTP/1.1: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        reason = error or "the server closed the connection"
        self.fail(_UNAVAILABLE, f"the connection was lost before the answer: {reason}")

    def on_body(self, body: bytes) -> None:
        """Store the body of an error response for the error's message. httptools calls this method."""
        if self._parser.get_status_code() != 200:
            self._body += body

    def on_message_complete(self) -> None:
        """End the call. httptools calls this method."""
        call, self.call = self.call, None
        status, body, self._body = self._parser.get_status_code(), self._body, b""
        self._busy.discard(self)
        if not self._parser.should_keep_alive():
            self._transport.close()
        elif call is not None:
            self._idle.append(self)
        if call is None:
            return
        if status == 200:
            call.end(0, "", self._received)
        else:
            answer = HttpAnswer(status, {}, body)
            call.end(int(answer.code.value[0]), answer.error or f"HTTP {status}", self._received)
