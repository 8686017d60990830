"""An exposed server disconnects slow clients, and its limit on connections includes those without a TLS handshake."""

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest

from hangtag.serving.server.config.limits import Limits
from tests.kit import onnx_models
from tests.kit.certificates import Certificates
from tests.kit.live import TIMEOUT, LiveServer, is_closed
from tests.kit.over_http import ENVOY, live_server
from tests.kit.raw import POST, connected, is_answered, sip, status_line
from tests.kit.rest import Rest, tensor
from tests.kit.waiting import until

KIB, MIB = 1 << 10, 1 << 20
MOST = 8
BEGUN = b"\x16\x03\x01\x02\x00\x01"
"""The first bytes of a TLS handshake."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    for name in ("gather", "filled"):
        onnx_models.publish(models, name, getattr(onnx_models, name)())
    return models


@pytest.mark.parametrize("part", [b"POST", POST, POST + b"Content-Length: 9\r\n\r\nonly"])
def test_a_request_that_comes_too_slowly_is_ended(models: Path, part: bytes) -> None:
    limits = Limits(request_seconds=0.2, message_seconds=0.2)
    with (
        live_server(ENVOY, models, http_port=0, limits=limits) as live,
        Rest(live.server.http_address) as other,
        connected(live) as connection,
    ):
        connection.sendall(part)
        assert other.infer_json("gather", tensor("index", "INT64", [1], [1])).status == 200  # meanwhile
        assert status_line(connection) == b"HTTP/1.1 408 Request Timeout"


@pytest.fixture
def tls(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.ca())


Serve = Callable[..., LiveServer]


@pytest.fixture
def https(models: Path, certificates: Certificates) -> Serve:
    """Creates a TLS server that accepts only a few connections."""
    files = certificates.server()
    return lambda peer_seconds=600: live_server(
        ENVOY, models, http_port=0, max_connections=MOST, limits=Limits(peer_seconds=peer_seconds), **files
    )


SHAPE = (4096, 2048)
SIZE = 4 * SHAPE[0] * SHAPE[1]
"""The size of the answer's tensor in bytes: 32 MiB, many times what the kernel buffers for a connection."""
FILL = json.dumps(
    {"inputs": [tensor("shape", "INT64", [2], SHAPE)], "parameters": {"binary_data_output": True}}
).encode()
OK = b"HTTP/1.1 200"
SECURE = pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])


@contextmanager
def reader(
    models: Path, certificates: Certificates, tls: ssl.SSLContext | None, limits: Limits
) -> Iterator[tuple[LiveServer, socket.socket]]:
    """A server that accepts one connection, and the client of this connection, which has received part of an answer."""
    files = certificates.server() if tls else {}
    with (
        live_server(ENVOY, models, http_port=0, max_connections=1, max_message_mib=64, limits=limits, **files) as live,
        socket.socket() as plain,
    ):
        host, _, port = live.server.http_address.rpartition(":")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        plain.settimeout(TIMEOUT)
        plain.connect((host, int(port)))
        with tls.wrap_socket(plain, server_hostname=host) if tls else nullcontext(plain) as client:
            head = b"POST /v2/models/filled/infer HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n"
            client.sendall(head % len(FILL) + FILL)
            assert client.recv(len(OK)) == OK
            yield live, client


@SECURE
def test_an_answer_that_is_not_read_is_cut_and_gives_its_connection_back(
    models: Path, certificates: Certificates, tls: ssl.SSLContext, secure: bool
) -> None:
    context = tls if secure else None
    with reader(models, certificates, context, Limits(idle_call_seconds=2)) as (live, client):
        until(lambda: is_answered(live, context))
        assert sip(client, SIZE, bytes_per_second=1e12) < SIZE


@SECURE
def test_an_answer_that_is_read_fast_enough_comes_whole(
    models: Path, certificates: Certificates, tls: ssl.SSLContext, secure: bool
) -> None:
    context = tls if secure else None
    with reader(models, certificates, context, Limits(idle_call_seconds=2)) as (live, client):
        assert sip(client, SIZE, 32 * MIB) == SIZE
        assert not is_answered(live, context)
        client.close()
        until(lambda: is_answered(live, context))


def require_closed(connections: list[socket.socket], count: int) -> list[socket.socket]:
    """Wait until the server has closed ``count`` of the connections. Return the connections that are still open."""
    until(lambda: sum(map(is_closed, connections)) >= count)
    return [each for each in connections if not is_closed(each)]


def test_connections_that_begin_no_handshake_count_as_others_do_and_make_room_when_they_end(
    https: Serve, tls: ssl.SSLContext
) -> None:
    with https() as live:
        with ExitStack() as stack:
            rest = stack.enter_context(Rest(live.server.http_address, tls))
            assert rest.get("/v2/health/live").status == 200
            opened = [stack.enter_context(connected(live)) for _ in range(50)]
            kept = require_closed(opened, 50 - (MOST - 1))
            assert len(kept) == MOST - 1
            assert not is_answered(live, tls)
            assert not any(map(is_closed, kept))
            assert rest.get("/v2/health/live").status == 200
        until(lambda: is_answered(live, tls))


@pytest.mark.parametrize("sent", [b"", BEGUN], ids=["not begun", "not finished"])
def test_a_handshake_has_a_time_limit(https: Serve, tls: ssl.SSLContext, sent: bytes) -> None:
    with https(peer_seconds=0.5) as live:
        with ExitStack() as stack:
            rest = stack.enter_context(Rest(live.server.http_address, tls))
            assert rest.get("/v2/health/live").status == 200
            opened = [stack.enter_context(connected(live)) for _ in range(MOST - 1)]
            for connection in opened:
                connection.sendall(sent)
            require_closed(opened, len(opened))
            assert rest.get("/v2/health/live").status == 200  # the old connection still works
        until(lambda: is_answered(live, tls))


def test_handshakes_that_fail_make_room_and_one_that_goes_on_does_not_hold_up_the_stop(
    https: Serve, tls: ssl.SSLContext
) -> None:
    with https() as live, ExitStack() as stack:
        opened = [stack.enter_context(connected(live)) for _ in range(MOST)]
        for connection in opened:
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: here\r\n\r\n")
        require_closed(opened, MOST)
        until(lambda: is_answered(live, tls))
        begun = stack.enter_context(connected(live))
        begun.sendall(BEGUN)
        live.server.stop(grace=TIMEOUT)
        require_closed([begun], 1)
