"""Connections with TLS are limited from when they are accepted on: in their number, and in their handshake's time."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.transport.http.tls_listener import TlsListener
from tests.kit import onnx_models
from tests.kit.certificates import Certificates
from tests.kit.live import TIMEOUT, LiveServer, is_closed
from tests.kit.raw import connected
from tests.kit.rest import Rest

pytestmark = pytest.mark.slow

MOST = 8
PAUSE = 0.01
BEGUN = b"\x16\x03\x01\x02\x00\x01"
"""The first bytes of a handshake."""


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    (tmp_path / "certificates").mkdir()
    return Certificates(tmp_path / "certificates")


@pytest.fixture
def tls(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.ca())


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def https(tmp_path: Path, certificates: Certificates, limits: Limits) -> Iterator[LiveServer]:
    onnx_models.publish(tmp_path / "models", "gather", onnx_models.gather())
    files: dict[str, Any] = certificates.server()
    config = ServerConfig(
        models=tmp_path / "models", port=0, http_port=0, max_connections=MOST, transport="grpc", limits=limits, **files
    )
    with LiveServer(config) as live:
        yield live


def closed_by_the_server(connections: list[socket.socket], count: int) -> list[socket.socket]:
    """Wait until the server has closed so many of these connections, and return them."""
    ends = time.monotonic() + TIMEOUT
    closed: list[socket.socket] = []
    while len(closed) < count:
        assert time.monotonic() < ends, f"{len(closed)} of {count} were closed"
        time.sleep(PAUSE)
        closed = [each for each in connections if is_closed(each)]
    return closed


def wait_until_served(live: LiveServer, tls: ssl.SSLContext) -> None:
    ends = time.monotonic() + TIMEOUT
    while True:
        with suppress(OSError), Rest(live.server.http_address, tls) as rest:
            assert rest.get("/v2/health/live").json == {"live": True}
            return
        assert time.monotonic() < ends
        time.sleep(PAUSE)


def test_connections_that_begin_no_handshake_are_limited_and_make_room_when_they_end(
    https: LiveServer, tls: ssl.SSLContext
) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(connected(https)) for _ in range(50)]
        kept = set(opened) - set(closed_by_the_server(opened, 50 - MOST))
        assert len(kept) == MOST
        with pytest.raises((ssl.SSLError, ConnectionError)), Rest(https.server.http_address, tls) as another:
            another.get("/v2/health/live")
        assert not any(is_closed(each) for each in kept)
    wait_until_served(https, tls)


def test_served_connections_and_handshakes_are_counted_together(https: LiveServer, tls: ssl.SSLContext) -> None:
    with ExitStack() as stack:
        for _ in range(MOST - 1):
            rest = stack.enter_context(Rest(https.server.http_address, tls))
            assert rest.get("/v2/health/live").status == 200
        opened = [stack.enter_context(connected(https)) for _ in range(3)]
        assert len(closed_by_the_server(opened, 2)) == 2
        assert rest.get("/v2/health/live").status == 200


@pytest.mark.parametrize("limits", [Limits(request_seconds=0.5)])
@pytest.mark.parametrize("sent", [b"", BEGUN], ids=["not begun", "not finished"])
def test_a_handshake_has_a_time_limit(https: LiveServer, tls: ssl.SSLContext, sent: bytes) -> None:
    with ExitStack() as stack:
        rest = stack.enter_context(Rest(https.server.http_address, tls))
        assert rest.get("/v2/health/live").status == 200
        opened = [stack.enter_context(connected(https)) for _ in range(MOST - 1)]
        for connection in opened:
            connection.sendall(sent)
        closed_by_the_server(opened, len(opened))
        assert rest.get("/v2/health/live").status == 200  # on its old connection
    wait_until_served(https, tls)


def test_handshakes_that_fail_make_room(https: LiveServer, tls: ssl.SSLContext) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(connected(https)) for _ in range(MOST)]
        for connection in opened:
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: here\r\n\r\n")
        closed_by_the_server(opened, MOST)
        wait_until_served(https, tls)


def test_the_server_stops_while_a_handshake_goes_on(https: LiveServer) -> None:
    with connected(https) as connection:
        connection.sendall(BEGUN)
        https.server.stop(grace=TIMEOUT)
        closed_by_the_server([connection], 1)


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    def __init__(self, connections: set[asyncio.Protocol]) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_each_event_loop_limits_connections_and_serves_within_the_limit(
    certificates: Certificates, tls: ssl.SSLContext, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.cert("server-of-ours"), certificates.key("server-of-ours"))

    async def ends(reader: asyncio.StreamReader) -> bool:
        with suppress(ConnectionResetError):
            return await asyncio.wait_for(reader.read(), TIMEOUT) == b""
        return True

    async def scenario(listener: socket.socket) -> None:
        connections: set[asyncio.Protocol] = set()
        accepting = TlsListener(listener, lambda: server, lambda: Echo(connections), connections, 2, TIMEOUT)
        address = listener.getsockname()
        silent, to_silent = await asyncio.open_connection(*address)
        reader, writer = await asyncio.open_connection(*address, ssl=tls)
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), TIMEOUT) == b"hello"
        refused, to_refused = await asyncio.open_connection(*address)
        assert await ends(refused)
        assert not silent.at_eof()
        await accepting.close()
        assert await ends(silent)
        writer.write(b"again")
        assert await asyncio.wait_for(reader.readexactly(5), TIMEOUT) == b"again"  # it is not for the listener to close
        for each in (to_silent, writer, to_refused):
            each.close()
        while connections:
            await asyncio.sleep(PAUSE)

    with socket.create_server(("127.0.0.1", 0)) as listener, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario(listener))
