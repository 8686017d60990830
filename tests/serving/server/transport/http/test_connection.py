"""A single HTTP connection: heads of requests, waiting requests, and clients that leave."""

import gc
import socket
import struct
from contextlib import ExitStack
from pathlib import Path
from select import select
from typing import Any

import numpy as np
import pytest

from tests.kit import onnx_models
from tests.kit.live import LiveServer, index, request
from tests.kit.over_http import live_server
from tests.kit.raw import INFER, POST, connected, is_answered, send, status_line
from tests.kit.rest import Rest, as_http

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n"
INFERENCE = POST + b"Content-Length: %d\r\n\r\n" % len(INFER) + INFER
MOST_WAITING = 100


def http_server(models: Path, **settings: Any) -> LiveServer:
    return live_server("grpc", models, http_port=0, instances=1, **settings)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 70_000,
        b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"a" * 70_000,
        b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X: a\r\n" * 12_000,
        b"GET /v2?" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: here\r\n" + b"X: a\r\n" * 8_000 + b"\r\n",
    ],
    ids=["path", "header", "headers", "whole with a query", "whole with headers"],
)
def test_a_head_that_is_too_large_is_refused(served: LiveServer, head: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(head)
        assert status_line(connection).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("end", [b"1;", b"0\r\nX: "], ids=["chunk extension", "trailer"])
def test_a_body_whose_end_has_no_end_is_cut(served: LiveServer, end: bytes) -> None:
    endless = POST + b"Transfer-Encoding: chunked\r\n\r\n" + end + b"a" * (16 << 20)  # exceeds every socket's buffer
    with connected(served) as connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.sendall(endless)


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


def test_a_connection_without_requests_is_closed(few: Path) -> None:
    with http_server(few, connection_idle_seconds=1) as live, connected(live) as connection:
        connection.sendall(LIVE)
        with connection.makefile("rb") as answers:
            assert answers.read().endswith(b'{"live":true}')  # the connection ends after this answer


def test_of_too_many_requests_that_wait_on_a_connection_the_first_are_answered(few: Path) -> None:
    with (
        http_server(few) as live,
        live.gates.closed("gather") as gate,
        connected(live) as within,
        connected(live) as beyond,
    ):
        within.sendall(INFERENCE + LIVE * MOST_WAITING)
        beyond.sendall(INFERENCE + LIVE * (MOST_WAITING + 1))
        gate.open()
        with within.makefile("rb") as answers:
            text = b""
            while text.count(b'{"live":true}') < MOST_WAITING:
                text += answers.read1()
        with beyond.makefile("rb") as answers:
            text = answers.read()  # reads until the server closes the connection
    assert text.count(b'{"live":true}') == MOST_WAITING
    assert text.index(b"HTTP/1.1 429 Too Many Requests") > text.rindex(b'{"live":true}')


def test_a_request_with_a_large_body_whose_client_leaves_is_not_computed(few: Path) -> None:
    """While a large body arrives, the server pauses reading, so it may not notice that the client has left."""
    with http_server(few) as live, live.gates.closed("gather") as gate, connected(live) as first:
        send(first)
        gate.wait_until_computing()
        with ExitStack() as leaving:
            for size in range(1_000_000, 1_400_000, 50_000):  # if the last part is large, the server pauses reading
                send(leaving.enter_context(connected(live)), INFER.ljust(size))
            live.wait_until_queued("gather", 8)
        live.wait_until_queued("gather", 0)
        gate.open()
        assert status_line(first) == b"HTTP/1.1 200 OK"
        assert gate.batch_sizes == [1]


@pytest.mark.parametrize("abort", [False, True], ids=["closes", "aborts"])
def test_a_client_that_leaves_with_answers_unread_leaves_nothing_in_the_log(
    tmp_path: Path, abort: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx_models.publish(tmp_path, "added", onnx_models.added())
    large = np.ones((1, 1_800_000), np.float32)  # 7 MB, which is more than the kernel buffers for a connection
    path, body, headers = as_http(request("added", x=large, y=large))
    head = "".join([f"POST {path} HTTP/1.1\r\nHost: here\r\n", *(f"{name}: {headers[name]}\r\n" for name in headers)])
    ask = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with http_server(tmp_path) as live:
        for count in (1, 2, 5):
            with connected(live) as connection:
                connection.setblocking(False)
                rest = memoryview(ask * count)
                while rest and select([], [connection], [], 0.5)[1]:  # send until the server stops reading
                    rest = rest[connection.send(rest[: 1 << 20]) :]
                if abort:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            assert is_answered(live)
        gc.collect()  # asyncio reports a task's exception when the task is deleted
    written = capfd.readouterr()
    assert "error" not in written.out + written.err


def test_a_server_that_stops_refuses_what_comes_on_an_open_connection_and_closes_it(few: Path) -> None:
    with http_server(few) as live, live.gates.closed("gather") as gate, Rest(live.server.http_address) as idle:
        (call,) = live.occupy(gate, request("gather", index=index(1)))
        answers = [idle.get("/v2")]
        with live.stopping():
            while answers[-1].status == 200:
                answers.append(idle.get("/v2"))
            assert answers[-1].status == 503
            assert (answers[-1].headers["connection"], answers[-1].headers["retry-after"]) == ("close", "1")
            gate.open()
            assert call.result().outputs
