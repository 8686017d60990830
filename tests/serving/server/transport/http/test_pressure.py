"""Clients that leave, are late, are too many, or send too slowly; and a server that stops."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.transport.event_loop import run
from hangtag.serving.server.transport.http import connection as limits
from tests import onnx_models
from tests.serving.server.transport.http.rest import Rest, as_http, tensor
from tests.serving.server.transport.live import TIMEOUT, LiveServer, index, request

pytestmark = pytest.mark.slow

INFER = json.dumps({"inputs": [tensor("index", "INT64", [1], [1])]}).encode()
POST = b"POST /v2/models/gather/infer HTTP/1.1\r\nHost: here\r\n"


@contextmanager
def connected(live: LiveServer) -> Iterator[socket.socket]:
    host, _, port = live.server.http_address.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as connection:
        yield connection


def status_line(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as answer:
        return answer.readline().strip()


def send(connection: socket.socket, request_: bytes = INFER) -> None:
    connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(request_) + request_)


def fill(live: LiveServer, connections: list[socket.socket]) -> None:
    for connection in connections:
        send(connection)


def test_a_full_queue_refuses_at_once(own_http: LiveServer) -> None:
    with own_http.gate("gather") as gate, connected(own_http) as first:
        send(first)
        gate.wait_until_computing()
        waiting = [Rest(own_http.server.http_address) for _ in range(4)]
        for each in waiting:
            path, body, headers = as_http(request("gather", index=index(1)))
            each.connection.request("POST", path, body, headers)
        gate.wait_until_queued(5)
        with Rest(own_http.server.http_address) as another:
            refused = another.infer(request("gather", index=index(1)))
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert "queue" in refused.error
        gate.open()
        assert status_line(first) == b"HTTP/1.1 200 OK"
        for each in waiting:
            assert each.connection.getresponse().status == 200
            each.connection.close()


def test_http_and_grpc_share_batches(own_http: LiveServer) -> None:
    with own_http.gate("gather") as gate, connected(own_http) as first, connected(own_http) as second:
        send(first)
        gate.wait_until_computing()
        send(second)
        gate.wait_until_queued(2)
        by_grpc = own_http.inference.ModelInfer.future(request("gather", index=index(2)), timeout=TIMEOUT)
        gate.wait_until_queued()
        gate.open()
        assert status_line(first) == status_line(second) == b"HTTP/1.1 200 OK"
        assert by_grpc.result().outputs
        assert gate.batch_sizes == [1, 2]


def test_a_request_whose_client_leaves_is_not_computed(own_http: LiveServer) -> None:
    with own_http.gate("gather") as gate, connected(own_http) as first:
        send(first)
        gate.wait_until_computing()
        with connected(own_http) as leaving:
            send(leaving)
            gate.wait_until_queued(2)
        gate.wait_until_cancelled()
        gate.open()
        assert status_line(first) == b"HTTP/1.1 200 OK"
        assert gate.batch_sizes == [1]


def test_a_request_past_its_own_timeout_is_dropped(own_http: LiveServer) -> None:
    with own_http.gate("gather") as gate, connected(own_http) as first, Rest(own_http.server.http_address) as late:
        send(first)
        gate.wait_until_computing()
        sent = request("gather", index=index(1))
        sent.parameters["timeout"].int64_param = 20_000
        path, body, headers = as_http(sent)
        late.connection.request("POST", path, body, headers)
        gate.wait_until_queued(2)
        over = time.monotonic() + 0.02
        while time.monotonic() < over:
            continue
        gate.open()
        answer = late.connection.getresponse()
        assert answer.status == 504
        assert b"deadline" in answer.read()
        assert status_line(first) == b"HTTP/1.1 200 OK"
        assert gate.batch_sizes == [1]


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
        b"GET /" + b"a" * 40_000,
        b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"a" * 40_000,
        b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X: a\r\n" * 8_000,
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
    ],
)
def test_what_is_no_request_is_refused(served: LiveServer, bytes_: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(bytes_)
        assert status_line(connection) == b"HTTP/1.1 400 Bad Request"


def test_chunks_without_end_are_refused_at_the_limit(served: LiveServer) -> None:
    with connected(served) as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        for _ in range(20):
            connection.sendall(chunk)
        assert status_line(connection).startswith(b"HTTP/1.1 413 ")


def test_a_huge_declared_length_is_refused_before_it_comes(served: LiveServer) -> None:
    with connected(served) as connection:
        connection.sendall(POST + b"Content-Length: 300000000000\r\nExpect: 100-continue\r\n\r\n")
        assert status_line(connection).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("part", [b"", b"POST", POST, POST + b"Content-Length: 9\r\n\r\nonly"])
def test_a_request_that_comes_too_slowly_is_ended(
    served: LiveServer, part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Rest(served.server.http_address) as other:
        assert other.get("/v2/health/live").status == 200
        monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.05)
        with connected(served) as connection:
            connection.sendall(part)
            assert other.infer_json("gather", tensor("index", "INT64", [1], [1])).status == 200  # meanwhile
            assert status_line(connection) == (b"HTTP/1.1 408 Request Timeout" if part else b"")


def test_a_large_body_may_take_longer(own_http: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SLOWEST_BYTES_PER_SECOND", 1)  # so a second for each byte that has come
    with connected(own_http) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(INFER) + INFER[:9])
        connections = own_http.server._http._uvicorn.server_state.connections  # type: ignore[union-attr]
        ends = time.monotonic() + TIMEOUT
        while not any(getattr(each, "_received", 0) for each in list(connections)):
            assert time.monotonic() < ends
        monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.0)
        (served,) = connections
        assert isinstance(served, limits.Connection)

        async def look() -> None:
            served._end_if_slow()  # as its timer would

        run(look())
        connection.sendall(INFER[9:])
        assert status_line(connection) == b"HTTP/1.1 200 OK"


def test_an_answer_that_is_not_read_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.5)
    onnx_models.publish(tmp_path, "added", onnx_models.added())
    large = np.ones((1, 1_800_000), np.float32)  # seven megabytes: more than the kernel holds for a connection
    path, body, headers = as_http(request("added", x=large, y=large))
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n"
    sent = "".join([head, *(f"{name}: {value}\r\n" for name, value in headers.items()), "\r\n"]).encode() + body
    with LiveServer(ServerConfig(models=tmp_path, port=0, http_port=0)) as live, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(TIMEOUT)
        host, _, port = live.server.http_address.rpartition(":")
        client.connect((host, int(port)))
        client.sendall(sent)
        assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        connections = live.server._http._uvicorn.server_state.connections  # type: ignore[union-attr]
        ends = time.monotonic() + TIMEOUT
        while connections:
            assert time.monotonic() < ends
        with Rest(live.server.http_address) as other:
            assert other.get("/v2/health/live").status == 200


def test_an_upgrade_to_another_protocol_is_ignored(served: LiveServer) -> None:
    """Java's client and curl --http2 ask for one with their first request."""
    asks = b"Connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAQAAAAIAAAAA\r\n"
    with connected(served) as connection, connection.makefile("rb") as answers:
        for _ in range(2):
            connection.sendall(POST + asks + b"Content-Length: %d\r\n\r\n" % len(INFER) + INFER)
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = dict(line.split(b": ", 1) for line in iter(answers.readline, b"\r\n"))
            assert b'"data":[10.0]' in answers.read(int(headers[b"content-length"]))


def test_pipelined_requests_are_answered_in_order(served: LiveServer) -> None:
    with connected(served) as connection:
        get = b"GET %s HTTP/1.1\r\nHost: here\r\n%s\r\n"
        connection.sendall(get % (b"/v2/health/live", b"") + get % (b"/v2/health/ready", b"Connection: close\r\n"))
        with connection.makefile("rb") as answers:
            text = answers.read()
    assert text.index(b'{"live":true}') < text.index(b'{"ready":true}')


def test_an_old_connection_is_closed_after_its_answer(repository: Path) -> None:
    config = ServerConfig(models=repository, port=0, http_port=0, connection_age_seconds=0.01)
    with LiveServer(config) as live, Rest(live.server.http_address) as rest:
        ends = time.monotonic() + TIMEOUT
        while rest.get("/v2/health/live").headers.get("connection") != "close":
            assert time.monotonic() < ends


def test_a_server_that_stops_answers_what_it_accepted_and_refuses_the_rest(own_http: LiveServer) -> None:
    with own_http.gate("gather") as gate, connected(own_http) as first, Rest(own_http.server.http_address) as idle:
        assert idle.get("/v2/health/ready").status == 200
        send(first)
        gate.wait_until_computing()
        begun, refuse_new = threading.Event(), own_http.server._http.refuse_new  # type: ignore[union-attr]

        def noting() -> None:
            refuse_new()
            begun.set()

        own_http.server._http.refuse_new = noting  # type: ignore[method-assign,union-attr]
        call = own_http.inference.ModelInfer.future(request("gather", index=index(1)), timeout=TIMEOUT)
        gate.wait_until_queued(2)
        stopping = threading.Thread(target=own_http.server.stop, args=(TIMEOUT,))
        stopping.start()
        assert begun.wait(TIMEOUT)
        refused = idle.infer(request("gather", index=index(1)))
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert refused.error == "the server is stopping and takes no new requests; try another replica"
        with Rest(own_http.server.http_address) as probe:
            assert probe.get("/v2/health/live").json == {"live": True}
            assert probe.get("/v2/health/ready").status == 503
        gate.open()
        assert status_line(first) == b"HTTP/1.1 200 OK"
        assert call.result().outputs
        stopping.join(TIMEOUT)
        assert not stopping.is_alive()
    with pytest.raises(ConnectionRefusedError), connected(own_http):
        pass


def test_what_outlasts_the_grace_period_is_cut(own_http: LiveServer) -> None:
    with own_http.gate("gather") as gate, connected(own_http) as first, connected(own_http) as silent:
        send(first)
        gate.wait_until_computing()
        stopping = threading.Thread(target=own_http.server.stop, args=(0,))
        stopping.start()
        for connection in (first, silent):
            try:
                assert connection.recv(1) == b""
            except ConnectionResetError:
                continue
        gate.open()
        stopping.join(TIMEOUT)
        assert not stopping.is_alive()
