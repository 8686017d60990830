"""One connection: uvicorn's protocol with limits on what a client may send before it is served, and on how slowly.

uvicorn itself sets no limit on the size of a request's head, and waits for one for ever.
"""

import asyncio
import re
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.transport.http.request_parser import RequestParser
from hangtag.serving.server.transport.http.responses import json_response

MAX_HEAD_BYTES = 32 * 1024
"""Of the target and the headers of a request. gRPC's core takes 16 KiB of metadata."""
_MAX_UNREAD_BYTES = 2 * MAX_HEAD_BYTES
"""Of a head before its end, or of the end of a body in chunks. It is twice the limit of a head since it counts spaces
around values too, so that a head of MAX_HEAD_BYTES is served in however many segments it comes."""
MAX_PIPELINED = 100
"""Requests that may wait for the one before them on a connection. Each takes some kilobytes, and ten thousand fit into
what is read at once."""
_TLS_PIECE_BYTES = 256 * 1024
"""With TLS a larger answer is sent in pieces. All that is given to the transport at once is encrypted at once, and its
buffer, which must show how much the client has not read, would then be empty."""
_HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*")  # RFC 9110: a name or an address, and a port
_REFUSAL = "hangtag.refusal"
"""The key in a request's scope for the status and the message that it is refused with."""


_NO_TRAILERS = (b"connection", b"proxy-connection", b"upgrade")
"""Trailers that are refused. httptools refuses Content-Length and Transfer-Encoding; all others are left out."""
_LARGE_HEAD = 431, f"the request's head is too large; at most {MAX_HEAD_BYTES:,} bytes are taken"
_NO_PROXY = 501, "this server is no proxy, and does not take CONNECT"


class UvicornConfig(uvicorn.Config):
    """uvicorn's settings, and the server's."""

    def __init__(self, app: Any, settings: ServerConfig, **options: Any) -> None:
        super().__init__(app, http=Connection, **options)
        self.settings = settings


class Connection(HttpToolsProtocol):
    """Refuses a client over the limit of connections, and what is no request that it serves; ends requests that come
    too slowly, and answers that are read too slowly; cancels the request of a client that leaves.

    A refusal is the last answer on its connection. It is sent in its turn, after the answers to the requests before it:
    a client takes the first answer that comes for the answer to its first request.
    """

    def __init__(self, config: UvicornConfig, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self.parser = RequestParser(self, self._head_without_upgrade)
        self._settings = config.settings
        self._limits = config.settings.limits
        self._application = self.app
        self.app = self._serve
        self._task: asyncio.Task[Any] | None = None  # serves a request
        self._served: RequestResponseCycle | None = None  # that request and its answer
        self._in_body = False  # whether a request's head has come, and its end has not
        self._whole = False  # whether the last request has come to its end
        self._refused = False  # whether no more requests are read
        self._received = 0  # bytes of the request that comes now
        self._unread = 0  # those of them that are neither of a complete head nor of a body
        self._counted = 0  # bytes of the request that had come when its speed was last measured
        self._timer: asyncio.TimerHandle | None = None
        self._rest = 0  # bytes of a response that the transport has not been given
        self._unsent = 0  # bytes of a response that the client has not read
        self._most_unsent = 0.0  # how many of them there may be when they are next counted
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._opened = self.loop.time()
        if len(self.connections) > self._settings.max_connections:
            self.refuse(503, "too many connections are open (--max-connections); try again later, or another replica")
            return
        self._timer = self.loop.call_later(self._limits.request_seconds, self._end_if_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._rest = 0
        self.resume_writing()
        super().connection_lost(exc)
        if self._served is not None and self._task is not None and not self._served.response_complete:
            self._served.disconnected = True  # uvicorn says so of the request that came last, which may wait
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._received += len(data)
        self._unread += len(data)
        super().data_received(data)
        if self._refused:
            return
        if self._whole:
            self._stop_timer()
            self._received = self._counted = 0
        elif self._unread > _MAX_UNREAD_BYTES:
            self.refuse(*_LARGE_HEAD)
        elif self._timer is None:
            self._timer = self.loop.call_later(self._limits.request_seconds, self._end_if_slow)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._most_unsent = self._unsent = self._count_unsent()
            self._write_timer = self.loop.call_later(self._limits.request_seconds, self._end_if_not_read)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._abort_if_not_read()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_if_not_read()

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, "the bytes are not a request of HTTP/1.1")

    def refuse(self, status: int, error: str) -> None:
        """Read no further, and answer the request that comes now with an error, in its turn. Then the connection is
        closed. A request whose answer has begun gets the rest of it and no error."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_timer()
        if not self._in_body:  # its head is not whole, or not valid: the answer needs a request that stands for it
            self.on_message_begin()
            self.url = b"/"
            super().on_headers_complete()
        elif self.cycle.response_started:
            self.transport.close()
            return
        self.cycle.keep_alive = False
        self.cycle.scope[_REFUSAL] = status, error  # type: ignore[literal-required]
        if self._served is self.cycle and self._task is not None:
            self._task.cancel()

    def on_message_begin(self) -> None:
        self._whole = self._in_body = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:
            super().on_header(name, value)
        elif name.lower() in _NO_TRAILERS:  # httptools goes by them: it would read no further request
            self.refuse(400, f"{name.decode()} must not be a trailer")
            raise ValueError(name)

    def on_headers_complete(self) -> None:
        connects = self.parser.get_method() == b"CONNECT"
        if self.parser.should_upgrade() and not connects:
            return
        fault = _NO_PROXY if connects else self._find_fault()
        if fault is None:
            super().on_headers_complete()
            self._unread = 0
            self._in_body = True
            age = self._settings.connection_age_seconds
            if age and self.loop.time() - self._opened > age:
                self.cycle.keep_alive = False
        else:
            self.refuse(*fault)
            raise ValueError(fault)  # ends the parser, which reads no further

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._whole = True
        self._in_body = False
        self._unread = 0
        super().on_message_complete()
        # uvicorn reads no further after a large part of a body until the application asks for the next part. Nobody
        # asks after the last one, and a connection that is not read does not say that its client has left.
        if not self.pipeline:
            self.flow.resume_reading()

    def _head_without_upgrade(self) -> bytes:
        parser = self.parser
        lines = [b"%b %b HTTP/%b" % (parser.get_method(), self.url, parser.get_http_version().encode())]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _find_fault(self) -> tuple[int, str] | None:
        """Return the status and the message that a request with such a head is refused with; None if it is served.

        Proxies that read such a head otherwise than this server would end the request elsewhere, or serve it for
        another host: RFC 9112 (3.2, 6.1).
        """
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return 505, "this server speaks HTTP/1.1"
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and version == "1.1") or not all(map(_HOST.fullmatch, hosts)):
            return 400, "a request of HTTP/1.1 needs one Host header, and it must be a host"
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or version == "1.0"):
            return 501, "the only Transfer-Encoding that is read is chunked, of HTTP/1.1"
        if self._received > MAX_HEAD_BYTES and self._count_head() > MAX_HEAD_BYTES:
            return _LARGE_HEAD
        if len(self.pipeline) >= MAX_PIPELINED:
            return 429, f"at most {MAX_PIPELINED} requests may wait on a connection; read the answers to those before"
        return None

    def _count_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        cycle: RequestResponseCycle = send.__self__
        self._task, self._served = asyncio.current_task(), cycle
        try:
            if _REFUSAL not in scope:
                in_pieces = partial(self._send_in_pieces, send) if self.scheme == "https" else send
                await self._application(scope, receive, in_pieces)
        except asyncio.CancelledError:  # the client has left, the request is refused, or the time to drain is over
            if _REFUSAL not in scope or cycle.response_started:
                cycle.disconnected = True
                self.transport.abort()
        finally:
            self._task = self._served = None
        if _REFUSAL in scope and not cycle.response_started:
            status, error = scope[_REFUSAL]
            await json_response({"error": error}, status)(scope, receive, send)

    async def _send_in_pieces(self, send: Any, message: Any) -> None:
        """Send a part of a response; of a large body each piece waits until enough of those before has been read."""
        body = message.get("body", b"")
        if len(body) <= _TLS_PIECE_BYTES:
            await send(message)
            return
        try:
            for start in range(0, len(body), _TLS_PIECE_BYTES):
                self._rest = len(body) - start
                more = self._rest > _TLS_PIECE_BYTES or message.get("more_body", False)
                await send({**message, "body": body[start : start + _TLS_PIECE_BYTES], "more_body": more})
        finally:
            self._rest = 0
            self._stop_write_timer()

    def _end_if_slow(self) -> None:
        came, self._counted = self._received - self._counted, self._received
        if (
            came >= self._limits.request_seconds * self._limits.slowest_request_bytes_per_second
            or self.flow.read_paused
        ):
            self._timer = self.loop.call_later(self._limits.request_seconds, self._end_if_slow)
        elif self._received:
            self.refuse(408, "the request comes too slowly")
        else:
            self.transport.close()

    def _end_if_not_read(self) -> None:
        unsent, self._unsent = self._unsent, self._count_unsent()
        share = self._limits.request_seconds * self._limits.slowest_answer_bytes_per_second
        most, self._most_unsent = self._most_unsent, self._most_unsent - share
        # The kernel takes more in pieces of up to a megabyte, so a period's share may come in the next one.
        if self._unsent < unsent and self._unsent <= most:
            self._write_timer = self.loop.call_later(self._limits.request_seconds, self._end_if_not_read)
        else:
            self.transport.abort()

    def _count_unsent(self) -> int:
        return self._rest + self.transport.get_write_buffer_size()

    def _abort_if_not_read(self) -> None:
        """Close the connection of a client that has not read its last answer, which would stay open for ever."""
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self._limits.request_seconds, self.transport.abort)

    def _stop_write_timer(self) -> None:
        """End the measure of an answer's speed, unless there is more of it."""
        if self._write_timer is not None and not self._rest and not self.flow.write_paused:
            self._write_timer.cancel()
            self._write_timer = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
