"""Clients that do not read their answer, or read it slowly, on real connections."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.transport.http import connection as limits
from tests.kit import onnx_models
from tests.kit.certificates import Certificates
from tests.kit.live import TIMEOUT, LiveServer, request
from tests.kit.rest import Rest, as_http

pytestmark = pytest.mark.slow

LARGE = np.ones((1, 1_800_000), np.float32)  # seven megabytes: more than the kernel holds for a connection
PAUSE = 0.01
KIB = 1024


class SlowReader:
    """A connection whose answer has begun to come."""

    def __init__(self, live: LiveServer, tls: ssl.SSLContext | None) -> None:
        self._live = live
        self._tls = tls
        host, _, port = live.server.http_address.rpartition(":")
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        client.settimeout(TIMEOUT)
        client.connect((host, int(port)))
        self.client = tls.wrap_socket(client, server_hostname=host) if tls else client
        while not self._connections():
            time.sleep(PAUSE)
        for connection in self._connections():  # else the kernel takes the answer in pieces of a megabyte
            served = connection.transport.get_extra_info("socket")
            served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
        path, body, headers = as_http(request("added", x=LARGE, y=LARGE))
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n"
        sent = "".join([head, *(f"{name}: {value}\r\n" for name, value in headers.items()), "\r\n"]).encode() + body
        self.client.sendall(sent)
        assert self.client.recv(1) == b"H"

    def taken(self, part: int) -> int:
        """Read parts of this size, about a hundred a second, until the answer ends or is cut; return their bytes."""
        taken, ends = 0, time.monotonic() + TIMEOUT
        with suppress(ConnectionResetError, ssl.SSLEOFError):
            while part and taken < LARGE.nbytes and (read := self.client.recv(part)):
                taken += len(read)
                time.sleep(PAUSE)
        while not part and self._connections():
            assert time.monotonic() < ends, "it is never cut"
            time.sleep(PAUSE)
        return taken

    def require_others(self) -> None:
        """Others get the same answer whole, and right."""
        with Rest(self._live.server.http_address, self._tls) as other:
            answer = other.infer(request("added", x=LARGE, y=LARGE))
            np.testing.assert_array_equal(answer.outputs["sum"], LARGE + LARGE)
            assert other.get("/v2/health/live").status == 200  # on the same connection

    def _connections(self) -> list[limits.Connection]:
        return list(self._live.server._http._uvicorn.server_state.connections)  # type: ignore[union-attr, arg-type]


@pytest.fixture(params=[False, True], ids=["http", "https"])
def reader(request: pytest.FixtureRequest, tmp_path: Path, slowest: int) -> Iterator[SlowReader]:
    """slowest: bytes that must be read in a second."""
    onnx_models.publish(tmp_path / "models", "added", onnx_models.added())
    certificates, tls = Certificates(tmp_path), ssl.create_default_context()
    tls.load_verify_locations(certificates.ca())
    files = certificates.server() if request.param else {}
    bounds = Limits(request_seconds=0.5, slowest_answer_bytes_per_second=slowest)
    config = ServerConfig(models=tmp_path / "models", port=0, http_port=0, transport="grpc", limits=bounds, **files)
    with LiveServer(config) as live:
        reader = SlowReader(live, tls if request.param else None)
        with reader.client:
            yield reader


@pytest.mark.parametrize("part", [0, 4 * KIB], ids=["not at all", "too slowly"])
@pytest.mark.parametrize("slowest", [2048 * KIB])
def test_an_answer_that_is_not_read_or_too_slowly_is_cut(reader: SlowReader, part: int) -> None:
    """The slow client reads 400 KiB a second at most, and some of it in each period."""
    assert reader.taken(part) < LARGE.nbytes
    reader.require_others()


@pytest.mark.parametrize("slowest", [64 * KIB])
def test_an_answer_that_is_read_fast_enough_comes_whole(reader: SlowReader) -> None:
    assert reader.taken(16 * KIB) >= LARGE.nbytes
    reader.require_others()
