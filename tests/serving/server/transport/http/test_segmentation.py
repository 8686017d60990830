"""The server's answers do not depend on how a stream of requests is split into parts that arrive one after another.

If a proxy and a server disagree about the end of a request, a caller can smuggle a second request past the proxy.
Therefore, however a stream is split, the server must find the same requests in it as the HTTP parser h11 finds."""

import itertools
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.live import LiveServer
from tests.kit.over_http import live_server
from tests.kit.raw import connected
from tests.kit.rest import Rest
from tests.serving.server.transport.http.streams import INNER, LAST, REFUSED, STATUSES, VALID, get, post

CLOSE = get(b"Connection: close\r\n")
OF_CONNECTION = {b"connection", b"upgrade", b"http2-settings", b"expect", b"content-length", b"transfer-encoding"}
AT_ONCE = 200
Answer = tuple[int, bytes]
"""The status and the body of an answer."""


class Asked(NamedTuple):
    """A request without the headers that concern only the connection."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that accepts only the host ``here``: if it used a Host field from a trailer, its answer would change."""
    models = tmp_path_factory.mktemp("models")
    (models / "text").symlink_to(repository / "text")
    with live_server("grpc", models, http_port=0, instances=1, allowed_host=("here",)) as live:
        yield live


def read_by_h11(stream: bytes) -> list[Asked]:
    """Return the complete requests that h11 reads until it refuses one or the connection ends."""
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
            kept = [(name.decode(), value.decode()) for name, value in head.headers if name not in OF_CONNECTION]
            asked.append(Asked(head.method.decode(), head.target.decode(), tuple(kept), body))
            connection.send(h11.Response(status_code=400, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE:
                return asked
            connection.start_next_cycle()
        else:
            return asked


def answered_alone(live: LiveServer, asked: Asked) -> Answer:
    with Rest(live.server.http_address) as rest:
        answer = rest.ask(asked.method, asked.target, asked.body, dict(asked.headers))
        return answer.status, answer.body


def answers(live: LiveServer, segments_of_each: Sequence[Sequence[bytes]]) -> list[list[Answer]]:
    """Send each sequence of segments on a separate connection, and return the answers of each connection.

    Every connection sends its next segment when the server has read the previous segments of all connections.
    """
    with ExitStack() as stack:
        probe = stack.enter_context(Rest(live.server.http_address))
        connections = [stack.enter_context(connected(live)) for _ in segments_of_each]
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for segments in itertools.zip_longest(*segments_of_each, fillvalue=b""):
            for connection, segment in zip(connections, segments, strict=True):
                with suppress(ConnectionError):  # the server refused the request and closed the connection
                    connection.sendall(segment)
            assert probe.get("/v2/health/live").status == 200  # the server has read the segments now
        return [list(_read(connection)) for connection in connections]


def _read(connection: socket.socket) -> Iterator[Answer]:
    received = bytearray()
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    rest = bytes(received)
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        if status != 100:
            headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            length = int(headers[b"content-length"])
            yield status, rest[:length]
            rest = rest[length:]


class Comparison:
    """Splits a stream into requests with h11, and compares the answers to the stream with those to single requests."""

    def __init__(self, live: LiveServer) -> None:
        self._live = live
        self._alone: dict[Asked, Answer] = {}

    def require(self, stream: bytes, valid: int, cuts: Sequence[tuple[int, ...]], refusal: int | None = None) -> None:
        """Send a stream once for each way to cut it, and compare the answers.

        Args:
            stream: The bytes to send, after which the server must close the connection.
            valid: The number of requests that the server must answer.
            cuts: For each transmission of the stream, the byte offsets at which it is split.
            refusal: The status of the refusal after these answers, if there is a refusal.
        """
        asked = read_by_h11(stream)[:valid]
        assert len(asked) == valid
        expected = [self._answer(each) for each in asked]
        for start in range(0, len(cuts), AT_ONCE):
            some = cuts[start : start + AT_ONCE]
            for places, received in zip(some, answers(self._live, [cut(stream, each) for each in some]), strict=True):
                statuses = [status for status, _ in received[valid:]]
                assert (places, received[:valid], statuses) == (places, expected, [refusal] if refusal else [])

    def _answer(self, asked: Asked) -> Answer:
        if asked not in self._alone:
            self._alone[asked] = answered_alone(self._live, asked)
        return self._alone[asked]


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    return [stream[start:end] for start, end in zip((0, *places), (*places, len(stream)), strict=True)]


def each_place(before: bytes, of_interest: bytes) -> list[tuple[int, ...]]:
    """Return every way to cut the stream: nowhere, or once, either inside ``of_interest`` or at its start or end."""
    return [(), *((place,) for place in range(len(before), len(before) + len(of_interest) + 1))]


@pytest.fixture(scope="module")
def comparison(server: LiveServer) -> Comparison:
    return Comparison(server)


STREAMS: dict[str, tuple[bytes, bytes, bytes, int, int | None]] = {
    **{name: (get(), stream, CLOSE, 3, None) for name, stream in VALID.items()},
    **{name: (get(), stream, INNER, 2, None) for name, stream in LAST.items()},
    **{name: (post(b"first"), stream, INNER, 1, STATUSES.get(name, 400)) for name, stream in REFUSED.items()},
}
"""For each stream: the bytes before those under test, the bytes under test, the bytes after them, the number of
answers, and the status if the server refuses the stream."""


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_answered_the_same_wherever_it_is_cut(comparison: Comparison, name: str) -> None:
    before, of_interest, after, valid, refusal = STREAMS[name]
    comparison.require(before + of_interest + after, valid, each_place(before, of_interest), refusal)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(sorted(VALID)), max_size=6),
    st.sampled_from(sorted(LAST | REFUSED)),
    st.lists(
        st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), min_size=1, max_size=8), min_size=1, max_size=8
    ),
)
def test_pipelined_requests_are_answered_in_their_order_however_they_are_cut(
    comparison: Comparison, names: list[str], end: str, shares: list[list[float]]
) -> None:
    stream = b"".join(VALID[name] for name in names) + (LAST | REFUSED)[end] + INNER
    cuts = [tuple(sorted({max(1, int(share * len(stream))) for share in each})) for each in shares]
    refusal = STATUSES.get(end, 400) if end in REFUSED else None
    comparison.require(stream, len(names) + (end in LAST), cuts, refusal)
