"""One connection: uvicorn's protocol with limits on what a client may send before it is served, and on how slowly.

uvicorn itself sets no limit on the size of a request's head, and waits for one for ever.
"""

import asyncio
import re
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.transport.http.responses import to_json

MAX_HEAD_BYTES = 32 * 1024
"""The request line and the headers. gRPC's core takes 16 KiB of metadata."""
REQUEST_SECONDS = 20.0
"""How long a request may take to come, from the opened connection or its first byte."""
SLOWEST_BYTES_PER_SECOND = 1024
"""A request that comes this fast in each further REQUEST_SECONDS may take longer."""
SLOWEST_BYTES_READ_PER_SECOND = 64 * 1024
"""After REQUEST_SECONDS an answer must be read this fast on average, and some of it in each REQUEST_SECONDS. That is
faster than for requests, since what is not read is held: of 16 MiB, the largest by default, for five minutes at most.
"""
MAX_PIPELINED = 100
"""Requests that may wait for the one before them on a connection. Each takes some kilobytes, and ten thousand fit into
what is read at once."""
_TLS_PIECE_BYTES = 256 * 1024
"""With TLS a larger answer is sent in pieces. All that is given to the transport at once is encrypted at once, and its
buffer, which must show how much the client has not read, would then be empty."""
_HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*")  # RFC 9110: a name or an address, and a port
_UPGRADE = re.compile(rb"(?i)(?<=\r\n)upgrade:")


class UvicornConfig(uvicorn.Config):
    """uvicorn's settings, and the server's."""

    def __init__(self, app: Any, settings: ServerConfig, **options: Any) -> None:
        super().__init__(app, http=Connection, **options)
        self.settings = settings


class Connection(HttpToolsProtocol):
    """Refuses a client over the limit of connections, and heads that are too large or have no valid Host; ends requests
    that come too slowly, and answers that are read too slowly; cancels the request of a client that leaves."""

    def __init__(self, config: UvicornConfig, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._settings = config.settings
        self._application = self.app
        self.app = self._serve
        self._task: asyncio.Task[Any] | None = None  # serves the request
        self._whole = False  # whether the last request has come to its end
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
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._end_if_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._rest = 0
        self.resume_writing()
        super().connection_lost(exc)
        if self._task is not None and self.cycle.disconnected:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if not self._received and b"pgrade" in data:
            data = _without_upgrade(data)
        self._received += len(data)
        self._unread += len(data)
        super().data_received(data)
        if self._whole:
            self._stop_timer()
            self._received = self._counted = 0
        elif self._unread > MAX_HEAD_BYTES:
            self._refuse_head()
        elif self._timer is None:
            self._timer = self.loop.call_later(REQUEST_SECONDS, self._end_if_slow)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._most_unsent = self._unsent = self._count_unsent()
            self._write_timer = self.loop.call_later(REQUEST_SECONDS, self._end_if_not_read)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(REQUEST_SECONDS, self.transport.abort)  # of a client that has not read its last response

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, "the bytes are not a request of HTTP/1.1")

    def refuse(self, status: int, error: str) -> None:
        """Close the connection, after a response that says why where none is being sent."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = to_json({"error": error})
            headers = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + headers + body)
        self.transport.close()

    def _refuse_head(self) -> None:
        self.refuse(431, f"the request's head is too large; at most {MAX_HEAD_BYTES:,} bytes are taken")

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def _has_host(self) -> bool:
        """Whether the Host header is as RFC 9112 requires. Proxies that read several differently reach two servers."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if not hosts:
            return self.parser.get_http_version() == "1.0"
        return len(hosts) == 1 and _HOST.fullmatch(hosts[0]) is not None

    def on_message_begin(self) -> None:
        self._whole = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._unread = 0
        if self._received > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES:
            self._refuse_head()
            raise ValueError("the head is too large")  # ends the parser, which serves nothing of what it has read
        if not self._has_host():
            self.refuse(400, "a request of HTTP/1.1 needs one Host header, and it must be a host")
            raise ValueError("the Host header is missing or not valid")
        if len(self.pipeline) >= MAX_PIPELINED:
            self.transport.close()
            raise ValueError("too many requests wait")
        super().on_headers_complete()
        age = self._settings.connection_age_seconds
        if age and self.loop.time() - self._opened > age:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._whole = True
        self._unread = 0
        super().on_message_complete()
        # uvicorn reads no further after a large part of a body until the application asks for the next part. Nobody
        # asks after the last one, and a connection that is not read does not say that its client has left.
        if not self.pipeline:
            self.flow.resume_reading()

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        self._task = asyncio.current_task()
        try:
            if self.scheme == "https":
                send = partial(self._send_in_pieces, send)
            await self._application(scope, receive, send)
        except asyncio.CancelledError:  # the client has left, or the server's time to drain is over
            self.cycle.disconnected = True
            self.transport.abort()
        finally:
            self._task = None

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
        if came >= REQUEST_SECONDS * SLOWEST_BYTES_PER_SECOND or self.flow.read_paused:
            self._timer = self.loop.call_later(REQUEST_SECONDS, self._end_if_slow)
        elif self._received:
            self.refuse(408, "the request comes too slowly")
        else:
            self.transport.close()

    def _end_if_not_read(self) -> None:
        unsent, self._unsent = self._unsent, self._count_unsent()
        most, self._most_unsent = self._most_unsent, self._most_unsent - REQUEST_SECONDS * SLOWEST_BYTES_READ_PER_SECOND
        # The kernel takes more in pieces of up to a megabyte, so a period's share may come in the next one.
        if self._unsent < unsent and self._unsent <= most:
            self._write_timer = self.loop.call_later(REQUEST_SECONDS, self._end_if_not_read)
        else:
            self.transport.abort()

    def _count_unsent(self) -> int:
        return self._rest + self.transport.get_write_buffer_size()

    def _stop_write_timer(self) -> None:
        """End the measure of an answer's speed, unless there is more of it."""
        if self._write_timer is not None and not self._rest and not self.flow.write_paused:
            self._write_timer.cancel()
            self._write_timer = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _without_upgrade(data: bytes) -> bytes:
    """Rename the header Upgrade in a request's head, so that it is ignored, as HTTP allows.

    httptools reads no body of a request that has it, and Java's client sends ``Upgrade: h2c`` with its first one.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"X-Upgrade:", head) + end + body
