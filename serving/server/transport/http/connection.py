"""One connection of HTTP/1.1: httptools reads the requests, which are answered in order. The Envoy in front of an
exposed server limits how many clients connect, and how slowly they may send and read."""

import asyncio
import re
import time
from collections import deque
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools

from hangtag.serving.server.transport.http.messages import HttpRequest, json_response

if TYPE_CHECKING:
    from hangtag.serving.server.transport.http.http_server import HttpServer

MAX_HEAD_BYTES = 32 * 1024
"""Size limit of a request's target and headers. gRPC's core accepts 16 KiB of metadata."""
_MAX_UNREAD_BYTES = 2 * MAX_HEAD_BYTES
"""Size limit of an incomplete head, or of a chunked body's trailers. It is higher than MAX_HEAD_BYTES, because it also
counts the spaces around values."""
MAX_PIPELINED = 100
"""How many requests may wait on one connection for earlier answers. A client may send ten thousand at once."""
_LINGER_SECONDS = 2.0
_HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*")  # RFC 9110: a name or an address, and a port
_NO_TRAILERS = (b"connection", b"proxy-connection", b"upgrade")
"""The server refuses these trailers; httptools refuses Content-Length and Transfer-Encoding. Others are ignored."""
_LARGE_HEAD = 431, f"the request's head is too large; the limit is {MAX_HEAD_BYTES:,} bytes"
_PHRASES = {each.value: each.phrase.encode() for each in HTTPStatus} | {499: b"Client Closed Request"}
_STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, phrase) for status, phrase in _PHRASES.items()}


class Connection(asyncio.Protocol):
    """Reads requests, answers them one after another, and refuses bytes that are not an acceptable request. A refusal
    is the last answer on its connection, and follows the answers to all earlier requests."""

    def __init__(self, server: "HttpServer") -> None:
        self.server = server
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []  # the headers of the head that is arriving
        # all requests; the first is being answered, or will be answered once it is complete
        self._requests: deque[HttpRequest] = deque()
        self._coming: HttpRequest | None = None  # the request whose body is arriving
        self._answered: HttpRequest | None = None  # the first request, while its response is computed
        self._reads = True
        self._writes = True  # whether the client keeps up with the responses
        self._unread = 0  # received bytes that belong neither to a complete head nor to a body
        self._idle_since = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's have no base
        self.server.connections.add(self)
        self._close_if_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self._reads = self._writes = False
        if self._timer is not None:
            self._timer.cancel()
        answered, self._answered = self._answered, None
        if answered is not None:
            answered.cancel()
        while self._requests:
            self.server.budget.release(self._requests.popleft())

    def pause_writing(self) -> None:
        self._writes = False

    def resume_writing(self) -> None:
        self._writes = True
        self._go_on()

    def stop(self) -> None:
        """Close the connection if it has no request. A busy connection closes after its next response."""
        if not self._requests:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if not self._reads:
            return
        self._unread += len(data)
        try:
            while data:
                try:
                    self._parser.feed_data(data)
                    data = b""
                except httptools.HttpParserUpgrade as end:
                    # RFC 9110 (7.8) allows a server to ignore Upgrade. But httptools stops after a head with Upgrade,
                    # because the following bytes may belong to another protocol. Therefore a new parser gets the same
                    # head without Upgrade, and then the following bytes.
                    before, self._parser = self._parser, httptools.HttpRequestParser(self)
                    line = before.get_method(), self._target, before.get_http_version().encode()
                    fields = [b"%b: %b\r\n" % each for each in self._fields if each[0] != b"upgrade"]
                    data = b"%b %b HTTP/%b\r\n%b\r\n" % (*line, b"".join(fields)) + data[end.args[0] :]
        except httptools.HttpParserError:
            self._refuse(400, "the bytes are not a request of HTTP/1.1")
        if self._unread > _MAX_UNREAD_BYTES:
            self._refuse(*_LARGE_HEAD)

    def on_message_begin(self) -> None:
        self._target, self._fields = b"", []

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if self._coming is None:
            self._fields.append((name, value))
        elif name in _NO_TRAILERS:  # httptools would apply these trailers, and read no more requests
            self._refuse(400, f"{name.decode()} must not be a trailer")
            raise ValueError(name)

    def on_headers_complete(self) -> None:
        parser = self._parser
        method: bytes = parser.get_method()
        if parser.should_upgrade() and method != b"CONNECT":
            return
        version = parser.get_http_version()
        if fault := self._find_fault(method, version):
            self._refuse(*fault)
            raise ValueError(fault)  # makes httptools stop parsing
        self._unread = 0
        keeps_open = version == "1.1" and parser.should_keep_alive()
        request = HttpRequest(self, method.decode("ascii"), self._target, self._fields, keeps_open=keeps_open)
        request.outcome = self.server.admit(request)
        request.awaits_continue = request.headers.get(b"expect", b"").lower() == b"100-continue"
        self._coming = request
        self._requests.append(request)
        self._go_on()

    def on_body(self, part: bytes) -> None:
        self._unread = 0
        request = self._coming
        assert request is not None
        if request.outcome is None:
            request.outcome = self.server.take(request, part)
            if request.outcome is not None:
                self._go_on()

    def on_message_complete(self) -> None:
        if self._coming is None:  # the request's head has Upgrade
            return
        self._unread = 0
        self._coming.is_whole = True
        self._coming = None
        self._go_on()

    def _find_fault(self, method: bytes, version: str) -> tuple[int, str] | None:
        """Return the status and the message with which this head is refused, or None if the head is accepted. A proxy
        might read such a head differently than this server (RFC 9112, 3.2 and 6.1)."""
        if method == b"CONNECT":
            return 501, "this server is not a proxy, and does not accept CONNECT"
        if version not in ("1.0", "1.1"):
            return 505, "this server speaks HTTP/1.1"
        hosts = [value for name, value in self._fields if name == b"host"]
        if len(hosts) > 1 or (not hosts and version == "1.1") or not all(map(_HOST.fullmatch, hosts)):
            return 400, "a request of HTTP/1.1 needs exactly one Host header, whose value is a host"
        codings = [value.lower() for name, value in self._fields if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or version == "1.0"):
            return 501, "the only supported Transfer-Encoding is chunked, in HTTP/1.1"
        if self._unread > MAX_HEAD_BYTES:
            fields = sum(len(name) + len(value) + len(": \r\n") for name, value in self._fields)
            if len(self._target) + fields > MAX_HEAD_BYTES:
                return _LARGE_HEAD
        if len(self._requests) > MAX_PIPELINED:
            return 429, f"at most {MAX_PIPELINED} requests may wait on a connection; first read the earlier answers"
        return None

    def _refuse(self, status: int, error: str) -> None:
        """Stop reading, answer the incoming request with an error if it has no answer yet, and close the connection."""
        if not self._reads:
            return
        self._reads = False
        request = self._coming
        if request is None:  # no request was parsed from the head, so a placeholder gets the answer
            request = HttpRequest(self, "GET", b"/", [], keeps_open=False)
            self._requests.append(request)
        elif request.is_answered:
            self.transport.close()
            return
        request.keeps_open = False
        request.is_whole = True
        request.outcome = json_response({"error": error}, status)
        self._go_on()

    def _go_on(self) -> None:
        """Send the responses that are ready, in the order of the requests, and start to answer the next request."""
        while self._requests and self._answered is None and self._writes:
            request = self._requests[0]
            if not request.is_answered:
                if request.outcome is not None:
                    self._send(request)
                elif request.is_whole:
                    self._answered = request
                    self.server.answer(request)
                    return
                elif request.awaits_continue:
                    request.awaits_continue = False
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if not request.is_answered or not request.is_whole:
                return
            if not request.keeps_open:
                self._reads = False
                self.transport.close()
                return
            self._requests.popleft()
            self._idle_since = self._loop.time()

    def go_on_after(self, request: HttpRequest) -> None:
        """Send the response to a request whose outcome is known, and answer the next requests."""
        if request is self._answered:  # false if the client has left
            self._answered = None
            self._go_on()

    def _send(self, request: HttpRequest) -> None:
        response = request.outcome
        if isinstance(response, bytes):
            status, headers, rest = 200, b"", response
        else:
            status, headers, rest = response.status, response.headers, b"\r\n" + response.body
            if request.verb == "HEAD":
                rest = b"\r\n"
            if response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:  # the remaining part of the body is not read
                request.keeps_open = False
        if self.server.intake.stopping:
            request.keeps_open = False
        closes = b"" if request.keeps_open else b"connection: close\r\n"
        self.transport.write(b"".join((_STATUS_LINES[status], _date(int(time.time())), closes, headers, rest)))
        request.is_answered = True
        self.server.budget.release(request)
        if not request.keeps_open and not request.is_whole:
            # The client is still sending. If the connection were closed at once, the client could lose the response.
            self._loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _close_if_idle(self) -> None:
        """Close the connection if it has had no request for `idle_seconds`, or schedule the next check."""
        now = self._loop.time()
        since = now if self._requests else self._idle_since
        if now - since >= self.server.idle_seconds:
            self.transport.close()
        else:
            self._timer = self._loop.call_later(since + self.server.idle_seconds - now, self._close_if_idle)


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
