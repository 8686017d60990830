"""The HTTP port of a real server: health, and what bad requests do to it."""

import socket
import threading
import urllib.error
import urllib.request

import pytest
import structlog.testing

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.telemetry.http_endpoint import MAX_CONNECTIONS, MetricsServer
from hangtag.serving.server.telemetry.prometheus import StateCollector
from tests.kit.live import TIMEOUT
from tests.serving.server.transport.watched import Watched

pytestmark = pytest.mark.slow


def test_health_by_http(watched: Watched) -> None:
    assert watched.get("/v2/health/live") == "live\n"
    assert watched.get("/v2/health/ready") == "ready\n"
    watched.live.server.stop(grace=0)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        watched.get("/v2/health/ready")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        watched.get("/")


def test_the_number_of_connections_is_limited(watched: Watched) -> None:
    address = ("127.0.0.1", watched.http.port)
    taken = [socket.create_connection(address, TIMEOUT) for _ in range(MAX_CONNECTIONS)]
    with socket.create_connection(address, TIMEOUT) as another:
        assert another.recv(1) == b""
    for connection in taken:  # they are still answered
        connection.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").read().endswith(b"live\n")
        connection.close()


def test_connections_that_got_no_thread_take_no_place(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if threading.current_thread().name == "metrics":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(MAX_CONNECTIONS):
            with socket.create_connection(("127.0.0.1", watched.http.port), TIMEOUT) as connection:
                assert connection.recv(1) == b""
    assert watched.get("/v2/health/live") == "live\n"


def test_it_stops_listening_though_clients_are_connected(watched: Watched) -> None:
    http = MetricsServer(ServerConfig(metrics_port=0), StateCollector(watched.live.server.state), lambda: True)
    address = ("127.0.0.1", http.port)
    with socket.create_connection(address, TIMEOUT):
        http.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, TIMEOUT)


def test_bad_requests_for_metrics_do_not_fill_the_log(watched: Watched, capfd: pytest.CaptureFixture[str]) -> None:
    address = ("127.0.0.1", watched.http.port)
    with structlog.testing.capture_logs() as log:
        for _ in range(3):
            with socket.create_connection(address, TIMEOUT) as connection:
                unreadable = b"Accept: application/openmetrics-text; version=no-number"
                connection.sendall(b"GET /metrics HTTP/1.0\r\n" + unreadable + b"\r\n\r\n")
                assert connection.makefile("rb").readline().startswith(b"HTTP/1.0 400")
    assert log == []
    assert capfd.readouterr().err == ""
    assert "nv_inference_count" in watched.get("/metrics")


def test_a_port_in_use_is_an_error_that_names_it(watched: Watched) -> None:
    config = ServerConfig(metrics_port=watched.http.port)
    with pytest.raises(
        StartError, match=rf"cannot listen on 127.0.0.1:{watched.http.port} for metrics: .*--metrics-port"
    ):
        MetricsServer(config, StateCollector(watched.live.server.state), lambda: True)


def test_version_6_addresses_have_metrics_too(watched: Watched) -> None:
    config = ServerConfig(host="::1", metrics_port=0)
    http = MetricsServer(config, StateCollector(watched.live.server.state), lambda: True)
    with socket.create_connection(("::1", http.port), TIMEOUT) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.0 200")
    http.close()
