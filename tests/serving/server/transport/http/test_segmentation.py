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
from tests.serving.server.transport.http.streams import INNER, LAST, REFUSED, VALID, get, post

Asked = dict[str, Any]
"""What the application was asked: method, target, version, headers and body."""


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
