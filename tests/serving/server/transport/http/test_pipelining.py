"""Several requests on a connection, sent before the first is answered: where each ends, and the order of answers."""

import gc
import json
import re
import socket
import struct
from pathlib import Path
from select import select

import numpy as np
import pytest

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.transport.http import connection as limits
from tests.kit import onnx_models
from tests.kit.live import LiveServer, request
from tests.kit.raw import INFER, POST, connected, status_line
from tests.kit.rest import Rest, as_http, tensor
from tests.kit.waiting import until

pytestmark = pytest.mark.slow

GET = b"GET /v2/health/%b HTTP/1.1\r\nHost: here\r\n%b\r\n"
INFERENCE = POST + b"Content-Length: %d\r\n\r\n" % len(INFER) + INFER


def statuses(answers: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 (\d+) ", answers)


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: %d\r\n\r\n%b", b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"],
    ids=["length", "chunks"],
)
@pytest.mark.parametrize("protocol", [b"x", b"websocket"])
def test_the_body_of_a_request_that_asks_for_an_upgrade_is_no_request(
    served: LiveServer, framing: bytes, protocol: bytes
) -> None:
    """Behind a proxy that uses connections again, the answer to a request in the body would be another caller's."""
    inner = GET % (b"ready", b"")
    request = POST + b"connection: Upgrade\r\nuPGRADE: " + protocol + b"\r\n" + framing % (len(inner), inner)
    for place in (len(POST), len(POST) + 20, request.index(b"\r\n\r\n") + 4, len(request) - len(inner)):
        with connected(served) as connection, connected(served) as other:
            connection.sendall(request[:place])
            other.sendall(GET % (b"live", b""))
            assert status_line(other) == b"HTTP/1.1 200 OK"  # by now the first part has been read
            connection.sendall(request[place:] + GET % (b"live", b"Connection: close\r\n"))
            with connection.makefile("rb") as answers:
                text = answers.read()
        assert statuses(text) == [b"400", b"200"]
        assert text.endswith(b'{"live":true}')


def test_what_is_no_request_is_refused_after_the_answers_to_those_before_it(served: LiveServer) -> None:
    """A client takes the first answer that comes for the answer to its first request."""
    with connected(served) as connection, connection.makefile("rb") as answers:
        connection.sendall(INFERENCE * 2 + b"no request\r\n\r\n" + INFERENCE)
        text = answers.read()
    assert statuses(text) == [b"200", b"200", b"400"]


@pytest.mark.parametrize("abort", [False, True], ids=["closes", "aborts"])
def test_a_client_that_leaves_with_answers_unread_leaves_nothing_in_the_log(
    tmp_path: Path, abort: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx_models.publish(tmp_path, "added", onnx_models.added())
    large = np.ones((1, 1_800_000), np.float32)  # seven megabytes: more than the kernel holds for a connection
    path, body, headers = as_http(request("added", x=large, y=large))
    head = "".join([f"POST {path} HTTP/1.1\r\nHost: here\r\n", *(f"{name}: {headers[name]}\r\n" for name in headers)])
    ask = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with LiveServer(ServerConfig(models=tmp_path, port=0, http_port=0)) as live:
        for count in (1, 2, 5):
            with connected(live) as connection:
                connection.setblocking(False)
                rest = memoryview(ask * count)
                while rest and select([], [connection], [], 0.5)[1]:  # until the server reads no more
                    rest = rest[connection.send(rest[: 1 << 20]) :]
                if abort:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: not live.server._http._uvicorn.server_state.connections)  # type: ignore[union-attr]
        gc.collect()  # asyncio reports a task's exception when the task goes
        with Rest(live.server.http_address) as rest_:
            assert rest_.get("/v2/health/live").status == 200
    written = capfd.readouterr()
    assert "error" not in written.out + written.err


def test_pipelined_requests_are_answered_in_order(served: LiveServer) -> None:
    with connected(served) as connection:
        connection.sendall(GET % (b"live", b"") + GET % (b"ready", b"Connection: close\r\n"))
        with connection.makefile("rb") as answers:
            text = answers.read()
    assert text.index(b'{"live":true}') < text.index(b'{"ready":true}')


def test_pipelined_inferences_are_answered_in_order_and_the_last_closes(served: LiveServer) -> None:
    def post(index: int, version: bytes = b"1.1", more: bytes = b"") -> bytes:
        body = json.dumps({"inputs": [tensor("index", "INT64", [1], [index])]}).encode()
        head = b"POST /v2/models/gather/infer HTTP/%s\r\nHost: here\r\n%sContent-Length: %d\r\n\r\n"
        return head % (version, more, len(body)) + body

    for last in (post(1, more=b"Connection: close\r\n"), post(1, b"1.0")):
        with connected(served) as connection, connection.makefile("rb") as answers:
            connection.sendall(post(1) + post(0) + post(2) + last)
            *answered, end = answers.read().split(b"HTTP/1.1 200 OK\r\n")[1:]
        data = [float(re.search(rb'"data":\[([0-9.]+)\]', each)[1]) for each in (*answered, end)]  # type: ignore[index]
        assert data == [10.0, 0.0, 20.0, 10.0]
        assert [b"connection: close" in each for each in (*answered, end)] == [False, False, False, True]


def test_of_too_many_requests_that_wait_on_a_connection_the_first_are_answered(own_http: LiveServer) -> None:
    get = GET % (b"live", b"")
    with own_http.gate("gather") as gate, connected(own_http) as within, connected(own_http) as beyond:
        within.sendall(INFERENCE + get * limits.MAX_PIPELINED)
        beyond.sendall(INFERENCE + get * (limits.MAX_PIPELINED + 1))
        gate.open()
        with within.makefile("rb") as answers:
            text = b""
            while text.count(b'{"live":true}') < limits.MAX_PIPELINED:
                text += answers.read1()
        with beyond.makefile("rb") as answers:
            text = answers.read()  # to the end of the connection
    assert text.count(b'{"live":true}') == limits.MAX_PIPELINED
    assert text.index(b"HTTP/1.1 429 Too Many Requests") > text.rindex(b'{"live":true}')
