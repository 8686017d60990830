"""However a stream of requests is cut into segments, the answers are the same, and h11 reads the same requests in it.

Where a proxy and a server disagree about the end of a request, a caller can smuggle a second one past the proxy. So
every stream here is sent whole and cut at each place, and what the application was asked is compared with what h11
reads in the same bytes.
"""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.transport.http.connection import Connection, UvicornConfig
from hangtag.serving.server.transport.http.responses import json_response

Asked = dict[str, Any]
"""What the application was asked: method, target, version, headers and body."""

HOST = b"Host: here\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAQAAAAIAAAAA\r\n"
WEBSOCKET = b"Connection: keep-alive, upgrade\r\nupgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
INNER = b"POST /v2/repository/models/lstm/unload HTTP/1.1\r\nHost: inner\r\nContent-Length: 0\r\n\r\n"


def get(more: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"GET /v2?a=b%20c HTTP/" + version + b"\r\n" + HOST + more + b"\r\n"


def post(body: bytes, more: bytes = b"", version: bytes = b"1.1") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST /infer HTTP/" + version + b"\r\n" + HOST + more + length + b"\r\n" + body


def chunked(*chunks: bytes, more: bytes = b"", extension: bytes = b"", trailers: bytes = b"") -> bytes:
    parts = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    head = b"POST /infer HTTP/1.1\r\n" + HOST + more + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + parts + b"0\r\n" + trailers + b"\r\n"


VALID = {
    "get": get(),
    "post": post(b"hello"),
    "empty post": post(b""),
    "a body like a request": post(INNER),
    "chunks": chunked(b"hel", b"lo"),
    "chunks with an extension": chunked(b"hello", INNER, extension=b";a=b"),
    "trailers": chunked(b"hello", trailers=b"Authorization: x\r\nContent-Encoding: gzip\r\n"),
    "trailers of another request": chunked(
        b"a", trailers=b"Host: there\r\nExpect: 100-continue\r\nKeep-Alive: max=1\r\n"
    ),
    "h2c": get(H2C),
    "h2c with a body": post(INNER, H2C),
    "h2c after the length": post(INNER).replace(b"\r\n\r\n", b"\r\n" + H2C + b"\r\n", 1),
    "h2c in chunks": chunked(INNER, b"more", more=H2C, trailers=b"X: y\r\n"),
    "websocket": post(b"hello", WEBSOCKET),
    "upgrade that is not of the connection": post(b"hello", b"Upgrade: x\r\n"),
    "expect": post(b"hello", b"Expect: 100-continue\r\n"),
    "expect and upgrade": post(b"hello", b"Expect: 100-continue\r\n" + H2C),
}
"""Requests after which the connection stays open."""

LAST = {
    "close": post(b"hello", b"Connection: close\r\n"),
    "close and upgrade": post(INNER, b"Connection: close, Upgrade\r\nUpgrade: x\r\n"),
    "old": get(version=b"1.0"),
    "old with keep-alive": post(b"hello", b"Connection: keep-alive\r\n", b"1.0"),
}
"""Requests after whose answer the connection is closed."""

REFUSED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /v2\r\n\r\n",
    "HTTP/2.0": get(version=b"2.0"),
    "no host": b"GET /v2 HTTP/1.1\r\n\r\n",
    "two hosts": get(b"host: there\r\n"),
    "connect": b"CONNECT here:443 HTTP/1.1\r\n" + HOST + b"\r\n" + INNER,
    "connect with a body": b"CONNECT here:443 HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "negative length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -5\r\n\r\nhello",
    "two lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length and chunks": post(b"0\r\n\r\n" + INNER, b"Transfer-Encoding: chunked\r\n"),
    "length, chunks and upgrade": post(b"0\r\n\r\n" + INNER, b"Transfer-Encoding: chunked\r\n" + H2C),
    "chunks of HTTP/1.0": chunked(b"hello").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "chunks after gzip": chunked(b"hello").replace(b": chunked", b": gzip, chunked"),
    "two transfer encodings": chunked(b"hello", more=b"Transfer-Encoding: identity\r\n"),
    "a chunk of no size": chunked(b"hello").replace(b"5\r\n", b"x\r\n"),
    "a chunk that is too long": chunked(b"hello").replace(b"5\r\n", b"4\r\n"),
    "a malformed trailer": chunked(b"hello", trailers=b"X y\r\n"),
    "a trailer that closes": chunked(b"hello", trailers=b"X: y\r\nConnection: close\r\n"),
    "a trailer that closes for a proxy": chunked(b"hello", trailers=b"PROXY-Connection: close\r\n"),
    "a trailer that keeps alive": chunked(b"hello", trailers=b"connection: keep-alive\r\n"),
    "trailers that ask for another protocol": chunked(b"hello", trailers=H2C),
    "an upgrade in a trailer": chunked(b"hello", trailers=b"Upgrade: x\r\n"),
    "a length in a trailer": chunked(b"hello", trailers=b"Content-Length: 3\r\n"),
    "a transfer encoding in a trailer": chunked(b"hello", trailers=b"Transfer-Encoding: gzip\r\n"),
    "a space before a colon": get(b"X : y\r\n"),
    "a bare line feed": get(b"X: y\nZ: w\r\n"),
    "a bare carriage return": get(b"X: y\rZ: w\r\n"),
    "a null": get(b"X: \0\r\n"),
    "a folded header": get(b"X: y\r\n z\r\n"),
    "a malformed head with upgrade": get(H2C + b"X : y\r\n"),
}
"""Streams that the server refuses at their first request. What follows in them is not answered."""


class Peer(asyncio.Transport):
    """The client's end of a connection: keeps what the server writes, and whether it has closed."""

    def __init__(self) -> None:
        super().__init__()
        self.received = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.received += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Every segment has come already."""

    resume_reading = pause_reading


@dataclass(frozen=True)
class Answers:
    """What the application was asked on a connection, the statuses that were sent, and whether it is closed."""

    asked: list[Asked]
    statuses: list[int]
    closed: bool


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what was asked."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    asked = _asked(scope["method"].encode(), target, scope["http_version"].encode(), scope["headers"], body)
    await json_response(asked)(scope, receive, send)


def _asked(method: bytes, target: bytes, version: bytes, headers: Any, body: bytes) -> Asked:
    kept = [(name.decode(), value.decode("latin-1")) for name, value in headers if name != b"upgrade"]
    return json.loads(json.dumps([method.decode(), target.decode(), version.decode(), kept, body.hex()]))  # type: ignore[no-any-return]


async def answers(*segments: bytes, at_once: bool = False) -> Answers:
    """Send segments on a connection. at_once: all come before the first request is served."""
    state = ServerState()
    connection = Connection(_config, server_state=state, app_state={})
    peer = Peer()
    connection.connection_made(peer)
    for segment in segments:
        if not peer.closed:
            connection.data_received(segment)
        if not at_once:
            await _settle(peer, state)
    await _settle(peer, state)
    closed = peer.closed
    connection.connection_lost(None)
    await _settle(peer, state)
    assert not state.tasks
    return _read(bytes(peer.received), closed)


async def _settle(peer: Peer, state: ServerState) -> None:
    """Let the loop run until nothing more happens."""
    calm = 0
    while calm < 5:
        before = len(peer.received), len(state.tasks)
        await asyncio.sleep(0)
        calm = calm + 1 if before == (len(peer.received), len(state.tasks)) else 0


def _read(received: bytes, closed: bool) -> Answers:
    asked, statuses = [], []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        if status == 100:
            continue
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(headers[b"content-length"])
        body, received = json.loads(received[:length]), received[length:]
        statuses.append(status)
        if status == 200:
            asked.append(body)
    return Answers(asked, statuses, closed)


def read_by_h11(stream: bytes) -> list[Asked]:
    """Return the whole requests that h11 reads before it refuses or the connection ends."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(stream)
    asked: list[Asked] = []
    head, body = None, b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return asked
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            asked.append(_asked(head.method, head.target, head.http_version, head.headers, body))
            connection.send(h11.Response(status_code=400, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE:
                return asked
            connection.start_next_cycle()
        else:
            return asked


_config = UvicornConfig(echo, ServerConfig(models=Path()), lifespan="off", access_log=False, log_config=None)
_config.load()


async def _compare(stream: bytes, valid: int, *, refused: bool, closed: bool, cuts: list[tuple[int, ...]]) -> None:
    """Compare a stream's answers when it comes whole with those when it is cut, and with h11's reading.

    Args:
        stream: What is sent.
        valid: How many requests it begins with that are to be answered.
        refused: Whether a refusal follows them.
        closed: Whether the server closes the connection.
        cuts: Places where the stream is cut, for each sending.
    """
    whole = await answers(stream)
    assert whole.asked == read_by_h11(stream)[:valid]
    assert len(whole.asked) == valid
    assert [status for status in whole.statuses if status != 200] == whole.statuses[valid:]
    assert len(whole.statuses) == valid + refused
    assert all(400 <= status < 600 for status in whole.statuses[valid:])
    assert whole.closed == closed
    for places in cuts:
        segments = [stream[start:end] for start, end in zip((0, *places), (*places, len(stream)), strict=True)]
        assert await answers(*segments) == whole, segments
        assert await answers(*segments, at_once=True) == whole, segments


def _everywhere(stream: bytes) -> list[tuple[int, ...]]:
    return [*[(place,) for place in range(1, len(stream))], tuple(range(1, len(stream)))]


@pytest.mark.parametrize("name", VALID)
def test_a_valid_request_is_answered_the_same_however_it_is_cut(name: str) -> None:
    stream = VALID[name] + get()
    asyncio.run(_compare(stream, 2, refused=False, closed=False, cuts=_everywhere(stream)))


@pytest.mark.parametrize("name", LAST)
def test_the_last_request_is_answered_the_same_however_it_is_cut(name: str) -> None:
    stream = get() + LAST[name] + INNER
    asyncio.run(_compare(stream, 2, refused=False, closed=True, cuts=_everywhere(stream)))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_refused_after_the_answers_before_it_however_it_is_cut(name: str) -> None:
    stream = post(b"hello") + REFUSED[name] + INNER
    asyncio.run(_compare(stream, 1, refused=True, closed=True, cuts=_everywhere(stream)))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(VALID)), max_size=6),
    st.sampled_from([None, *sorted(LAST), *sorted(REFUSED)]),
    st.lists(
        st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), min_size=1, max_size=8), min_size=1, max_size=8
    ),
)
def test_pipelined_requests_are_answered_the_same_however_they_are_cut(
    names: list[str], end: str | None, shares: list[list[float]]
) -> None:
    stream = b"".join(VALID[name] for name in names)
    valid, refused = len(names), end in REFUSED
    if end is not None:
        stream += (LAST | REFUSED)[end] + INNER
        valid += end in LAST
    cuts = [tuple(sorted({max(1, int(share * len(stream))) for share in each})) for each in shares if stream]
    cuts = [places for places in cuts if places[-1] < len(stream)]
    asyncio.run(_compare(stream, valid, refused=refused, closed=end is not None, cuts=cuts))
