"""What one connection may do: its head, its speed, its age, and bytes that are no request."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from uvicorn.server import ServerState

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.transport.event_loop import run
from hangtag.serving.server.transport.http import connection as limits
from tests.kit.live import TIMEOUT, LiveServer
from tests.kit.raw import INFER, POST, connected, status_line
from tests.kit.rest import Rest, tensor

pytestmark = pytest.mark.slow


def test_the_connections_are_limited(own_http: LiveServer) -> None:
    host, _, port = own_http.server.http_address.rpartition(":")
    taken = [socket.create_connection((host, int(port)), TIMEOUT) for _ in range(8)]
    for connection in taken:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
        assert status_line(connection) == b"HTTP/1.1 200 OK"
    with connected(own_http) as another:
        assert status_line(another) == b"HTTP/1.1 503 Service Unavailable"
    for connection in taken:
        connection.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 70_000,
        b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"a" * 70_000,
        b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X: a\r\n" * 12_000,
        b"GET /v2 HTTP/1.1\r\nHost: here\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET /v2?" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: here\r\n" + b"X: a\r\n" * 8_000 + b"\r\n",
    ],
    ids=["path", "header", "headers", "whole with a header", "whole with a query", "whole with headers"],
)
def test_a_head_that_is_too_large_is_refused(served: LiveServer, head: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(head)
        assert status_line(connection).startswith(b"HTTP/1.1 431 ")


def test_a_connection_is_read_while_its_request_is_served_however_large_the_bodys_last_part_was() -> None:
    """Else it would not be seen that the client leaves."""

    async def serve() -> None:
        asked, taken = asyncio.Event(), asyncio.Event()

        async def application(scope: Any, receive: Any, send: Any) -> None:
            asked.set()
            assert not (await receive())["more_body"]
            taken.set()
            await asyncio.Event().wait()

        config = limits.UvicornConfig(application, ServerConfig(models=Path()), lifespan="off")
        config.load()
        connection = limits.Connection(config, server_state=ServerState(), app_state={})
        transport = Reading()
        connection.connection_made(transport)
        connection.data_received(POST + b"Content-Length: 200000\r\n\r\n")
        await asked.wait()
        connection.data_received(bytes(200_000))
        await taken.wait()
        assert transport.is_reading()
        connection.connection_lost(None)

    asyncio.run(serve())


class Reading(asyncio.Transport):
    """A transport that keeps whether it is to be read."""

    def __init__(self) -> None:
        super().__init__()
        self._reading = True

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def close(self) -> None:
        """Nothing is open."""

    abort = close


@pytest.mark.parametrize("end", [b"1;", b"0\r\nX: "], ids=["chunk extension", "trailer"])
def test_a_body_whose_end_has_no_end_is_cut(served: LiveServer, end: bytes) -> None:
    endless = POST + b"Transfer-Encoding: chunked\r\n\r\n" + end + bytes(64 << 20)  # more than any socket buffers
    with connected(served) as connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.sendall(endless.replace(b"\0", b"a"))


@pytest.mark.parametrize(
    "bytes_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        POST + b"Content-Length: -5\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /v2 HTTP/1.1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: here\r\nX: y\r\nhost: there\r\n\r\n",
        b"GET /v2 HTTP/1.0\r\nHost: here\r\nHost: here\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: here/there\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: here, there\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(served: LiveServer, bytes_: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(bytes_)
        assert status_line(connection) == b"HTTP/1.1 400 Bad Request"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2 HTTP/1.0\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHOST: a_b.example:8000\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: [fe80::1%25eth0]:8000\r\n\r\n",
    ],
)
def test_an_old_client_may_leave_out_the_host_and_others_send_one_of_any_kind(served: LiveServer, head: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(head)
        assert status_line(connection) == b"HTTP/1.1 200 OK"


@pytest.fixture(scope="module")
def impatient(few: Path) -> Iterator[LiveServer]:
    config = ServerConfig(models=few, port=0, http_port=0, limits=Limits(request_seconds=0.2))
    with LiveServer(config) as live:
        yield live


@pytest.mark.parametrize("part", [b"", b"POST", POST, POST + b"Content-Length: 9\r\n\r\nonly"])
def test_a_request_that_comes_too_slowly_is_ended(impatient: LiveServer, part: bytes) -> None:
    with Rest(impatient.server.http_address) as other:
        assert other.get("/v2/health/live").status == 200
        with connected(impatient) as connection:
            connection.sendall(part)
            assert other.infer_json("gather", tensor("index", "INT64", [1], [1])).status == 200  # meanwhile
            assert status_line(connection) == (b"HTTP/1.1 408 Request Timeout" if part else b"")


def test_a_large_body_may_take_longer_while_it_comes(few: Path) -> None:
    config = ServerConfig(
        models=few, port=0, http_port=0, limits=Limits(slowest_request_bytes_per_second=0.25), transport="grpc"
    )
    with LiveServer(config) as live:
        require_five_bytes_a_period(live)


def require_five_bytes_a_period(own_http: LiveServer) -> None:
    parts = [POST + b"Content-Length: %d\r\n\r\n" % len(INFER), INFER[:5], INFER[5:10], INFER[10:12]]
    with connected(own_http) as connection:
        for sent, part in enumerate(parts, 1):
            connection.sendall(part)
            served = _serves(own_http, len(b"".join(parts[:sent])))
            run(_measure(served))  # as its timer does
        assert status_line(connection) == b"HTTP/1.1 408 Request Timeout"  # two bytes in 20 seconds
    with connected(own_http) as connection:
        for part in (*parts, INFER[12:]):
            connection.sendall(part)
        assert status_line(connection) == b"HTTP/1.1 200 OK"


def _serves(live: LiveServer, received: int) -> limits.Connection:
    """The server's end of the only connection, once it has received so many bytes."""
    connections = live.server._http._uvicorn.server_state.connections  # type: ignore[union-attr]
    ends = time.monotonic() + TIMEOUT
    while not any(getattr(each, "_received", 0) == received for each in list(connections)):
        assert time.monotonic() < ends
    (served,) = connections
    assert isinstance(served, limits.Connection)
    return served


async def _measure(connection: limits.Connection) -> None:
    connection._end_if_slow()


def test_an_upgrade_to_another_protocol_is_ignored(served: LiveServer) -> None:
    """Java's client and curl --http2 ask for one with their first request."""
    asks = b"Connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAQAAAAIAAAAA\r\n"
    with connected(served) as connection, connection.makefile("rb") as answers:
        for _ in range(2):
            connection.sendall(POST + asks + b"Content-Length: %d\r\n\r\n" % len(INFER) + INFER)
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = dict(line.split(b": ", 1) for line in iter(answers.readline, b"\r\n"))
            assert b'"data":[10.0]' in answers.read(int(headers[b"content-length"]))


def test_a_connection_without_requests_is_closed(few: Path) -> None:
    config = ServerConfig(models=few, port=0, http_port=0, connection_idle_seconds=1)
    with LiveServer(config) as live, connected(live) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
        with connection.makefile("rb") as answers:
            assert answers.read().endswith(b'{"live":true}')  # and then the end of the connection


def test_an_old_connection_is_closed_after_its_answer(repository: Path) -> None:
    config = ServerConfig(models=repository, port=0, http_port=0, connection_age_seconds=0.01)
    with LiveServer(config) as live, Rest(live.server.http_address) as rest:
        ends = time.monotonic() + TIMEOUT
        while rest.get("/v2/health/live").headers.get("connection") != "close":
            assert time.monotonic() < ends
