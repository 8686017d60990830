"""Bodies that are compressed, too large, or too many at once."""

import asyncio
import gzip
import json
import re
import selectors
import socket
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import CancelledError, QueueFullError
from hangtag.serving.server.transport.call import Call
from hangtag.serving.server.transport.http import bodies
from hangtag.serving.server.transport.http.bodies import read_body
from hangtag.serving.server.transport.http.body_budget import BodyBudget, HeldBytes
from hangtag.serving.server.transport.http.inference import infer_query
from hangtag.serving.server.transport.http.inference.infer_query import HttpInferQuery
from tests.kit import onnx_models
from tests.kit.command import serving
from tests.kit.live import TIMEOUT, LiveServer, index, request
from tests.kit.raw import POST, connected, status_line
from tests.kit.rest import Rest, as_http, tensor

pytestmark = pytest.mark.slow

MIB = 1 << 20
X = tensor("x", "FP32", [1, 1], [1])


def test_an_encoding_that_is_not_read(rest: Rest) -> None:
    answer = rest.post("/v2/models/free_axis/infer", b"{}", content_encoding="br")
    assert (answer.status, answer.error) == (
        415,
        "the Content-Encoding 'br' is not supported; send gzip, deflate, or none",
    )


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("damage", ["cut", "more", "other"])
def test_a_damaged_encoding(rest: Rest, encoding: str, damage: str) -> None:
    body = (gzip.compress if encoding == "gzip" else zlib.compress)(json.dumps({"inputs": [X]}).encode())
    damaged = {"cut": body[:-6], "more": body + b"x", "other": b"{}"}[damage]
    answer = rest.post("/v2/models/free_axis/infer", damaged, content_encoding=encoding)
    assert answer.status == 400
    assert encoding in answer.error


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_body_that_decompresses_to_more_than_the_limit_is_refused(rest: Rest, compress: Any) -> None:
    bomb = compress(bytes(64 * MIB))
    assert len(bomb) < MIB
    encoding = "gzip" if compress is gzip.compress else "deflate"
    answer = rest.post("/v2/models/free_axis/infer", bomb, content_encoding=encoding)
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert "larger than max (1048576 bytes when decompressed)" in answer.error


@pytest.mark.parametrize("count", [2, 500])
def test_a_gzip_body_may_have_several_members(rest: Rest, count: int) -> None:
    head = json.dumps({"inputs": [tensor("x", "FP32", [1, 50_000], [1] * 50_000)]}).encode()
    size = -(-len(head) // count)
    members = b"".join(gzip.compress(head[at : at + size]) for at in range(0, len(head), size))
    answer = rest.post("/v2/models/free_axis/infer", members + gzip.compress(b""), content_encoding="gzip")
    assert answer.outputs["total"].tolist() == [[50_000]]


@pytest.mark.parametrize(
    ("encoding", "body", "status", "sentence"),
    [
        ("gzip", gzip.compress(b"") + gzip.compress(b"{}")[:-3], 400, "the gzip body ends early"),
        ("gzip", gzip.compress(b"{}") + b"\0" * 20, 400, "the body is not gzip"),
        ("gzip", gzip.compress(b"") * 20_000, 400, "the gzip body has more than 16,384 members"),
        ("gzip", gzip.compress(bytes(MIB // 2)) * 3, 413, "larger than max (1048576 bytes when decompressed)"),
        ("deflate", zlib.compress(b"{}") * 2, 400, "the deflate body has more bytes after its end"),
    ],
    ids=["cut", "zeros", "too many", "bomb", "deflate"],
)
def test_members_that_cannot_be_read(rest: Rest, encoding: str, body: bytes, status: int, sentence: str) -> None:
    answer = rest.post("/v2/models/free_axis/infer", body, content_encoding=encoding)
    assert (answer.status, sentence in answer.error) == (status, True), answer.error


@pytest.mark.parametrize("path", ["/v2/models/free_axis/infer", "/v1/classify/classifier"])
def test_a_body_over_the_limit_is_refused_though_the_client_sends_it_first(rest: Rest, path: str) -> None:
    answer = rest.post(path, bytes(8 * MIB))
    assert answer.status == 413
    assert answer.error == f"SERVER: Received message larger than max ({8 * MIB} vs. {MIB})"
    assert rest.infer_json("free_axis", X).status == 200  # on a new connection


def test_an_answer_over_the_limit_is_refused(rest: Rest) -> None:
    answer = rest.infer(request("text", text=np.array(["x" * 1000] * 16, np.object_)))
    assert answer.status == 200
    sent = json.dumps({"inputs": [tensor("text", "BYTES", [16], ["ö" * 30_000] * 16)]}, ensure_ascii=False)
    assert len(sent.encode()) < MIB
    answer = rest.post("/v2/models/text/infer", sent.encode())  # the answer's JSON is ASCII, six bytes an ö
    assert answer.status == 413
    assert "SERVER: Sent message larger than max" in answer.error


def test_more_json_than_is_read_in_one_go_is_refused(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "free_axis", onnx_models.free_axis())
    with LiveServer(ServerConfig(models=tmp_path, port=0, http_port=0, transport="grpc")) as live:
        with Rest(live.server.http_address) as rest:
            answer = rest.post("/v2/models/free_axis/infer", b'{"inputs": [' + bytes(5 * MIB))
            assert answer.status == 413
            assert "at most 4,194,304 are read. Send large tensors as binary data" in answer.error
        with Rest(live.server.http_address) as rest:  # as it says
            large = np.ones((1, 3 * MIB), np.float32)
            assert rest.infer(request("free_axis", x=large)).outputs["total"].tolist() == [[3 * MIB]]


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


def large_request(size: int) -> tuple[str, bytes, dict[str, str]]:
    """A request for free_axis whose tensor has so many bytes, all 0."""
    return as_http(request("free_axis", x=np.zeros((1, size // 4), np.float32)))


@pytest.fixture
def narrow(few: Path) -> Iterator[LiveServer]:
    """A server whose HTTP requests in flight may have one MiB together."""
    config = ServerConfig(models=few, port=0, http_port=0, max_message_mib=1, max_http_bodies_mib=1, instances=1)
    with LiveServer(config) as live:
        yield live


def test_the_bodies_in_flight_share_their_memory(narrow: LiveServer) -> None:
    path, body, headers = large_request(700_000)
    with narrow.gate("free_axis") as gate, Rest(narrow.server.http_address) as first:
        first.connection.request("POST", path, body, headers)
        gate.wait_until_computing()
        with Rest(narrow.server.http_address) as other:
            packed = gzip.compress(body)
            for answer in (
                other.post(path, body, **headers),
                other.post(path, packed, **headers, content_encoding="gzip"),
                other.post("/v1/classify/classifier", gzip.compress(body), content_encoding="gzip"),
            ):
                assert (answer.status, answer.headers["retry-after"]) == (429, "1")
                assert "more than 1,048,576 bytes together (--max-http-bodies-mib)" in answer.error
            assert other.infer(request("gather", index=index(2))).outputs["value"].tolist() == [20]
            gate.open()
            assert first.connection.getresponse().status == 200
            assert other.post(path, body, **headers).status == 200
        assert narrow.statistics("free_axis").inference_stats.fail.count == 1  # the others named no model yet


def test_arrays_that_take_more_than_their_json_count_as_they_are(narrow: LiveServer) -> None:
    many = json.dumps({"inputs": [tensor("x", "FP32", [1, 300_000], [1] * 300_000)]}, separators=(",", ":"))
    texts = json.dumps({"inputs": [tensor("x", "BYTES", [1, 30_000], ["ab"] * 30_000)]}, separators=(",", ":"))
    assert max(len(many), len(texts)) < 0.6 * MIB
    with Rest(narrow.server.http_address) as rest:
        for body in (many, texts):
            answer = rest.post("/v2/models/free_axis/infer", body)
            assert (answer.status, "--max-http-bodies-mib" in answer.error) == (429, True)
    assert narrow.statistics("free_axis").inference_stats.fail.count == 2


def test_a_client_that_leaves_gives_its_memory_back(narrow: LiveServer) -> None:
    path, body, headers = large_request(700_000)
    with narrow.gate("free_axis") as gate, Rest(narrow.server.http_address) as other:
        with Rest(narrow.server.http_address) as leaving:
            leaving.connection.request("POST", path, body, headers)
            gate.wait_until_computing()
            assert other.post("/v1/classify/classifier", body).status == 429
        ends = time.monotonic() + TIMEOUT
        while other.post("/v1/classify/classifier", body).status != 400:  # it is no image
            assert time.monotonic() < ends


def test_a_body_that_is_not_whole_gives_its_memory_back() -> None:
    budget = BodyBudget(10, 10)
    parts: list[dict[str, object]] = [
        {"type": "http.request", "body": b"123456", "more_body": True},
        {"type": "http.disconnect"},
    ]
    messages = iter(parts)

    async def receive() -> dict[str, object]:
        return next(messages)

    async def read() -> None:
        with budget.hold() as held:
            await read_body(receive, {}, held)

    with pytest.raises(CancelledError):
        asyncio.run(read())
    with budget.hold() as held:
        held.take(10)
        with pytest.raises(QueueFullError), budget.hold() as other:
            other.take(1)


def test_a_body_that_is_decoded_after_its_caller_has_left_takes_no_memory_for_ever(
    narrow: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, may_end, ended = threading.Event(), threading.Event(), threading.Event()
    original = bodies.decompress

    def late(body: bytes, encoding: bytes, held: HeldBytes) -> bytes:
        if not encoding:
            return original(body, encoding, held)
        entered.set()
        assert may_end.wait(TIMEOUT)
        try:
            return original(body, encoding, held)
        finally:
            ended.set()

    monkeypatch.setattr(infer_query, "decompress", late)
    path, body, headers = large_request(700_000)
    with Rest(narrow.server.http_address) as leaving:
        leaving.connection.request("POST", path, gzip.compress(body), headers | {"content-encoding": "gzip"})
        assert entered.wait(TIMEOUT)
    ends = time.monotonic() + TIMEOUT
    while narrow.server._http._uvicorn.server_state.tasks:  # type: ignore[union-attr]
        assert time.monotonic() < ends
    may_end.set()
    assert ended.wait(TIMEOUT)
    with Rest(narrow.server.http_address) as other:
        assert other.post(path, body, **headers).status == 200


def test_many_connections_with_large_bodies_take_no_more_memory(few: Path) -> None:
    with serving("--models", str(few), "--port", "0", "--max-http-bodies-mib", "16") as server, ExitStack() as opened:
        (address,) = re.findall(r" http=(\S+)", server.wait_for("ready"))
        host, _, port = address.rpartition(":")
        before = peak_memory(server.process.pid)
        refused = 0
        with selectors.DefaultSelector() as answered:
            for _ in range(32):
                connection = opened.enter_context(socket.create_connection((host, int(port)), TIMEOUT))
                connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % (8 * MIB) + bytes(7 * MIB))
                answered.register(connection, selectors.EVENT_READ)
            while refused < 30:  # the other two have their memory, and wait for the rest
                ready = answered.select(TIMEOUT)
                assert ready
                for key, _ in ready:
                    assert isinstance(key.fileobj, socket.socket)
                    assert status_line(key.fileobj) == b"HTTP/1.1 429 Too Many Requests"
                    answered.unregister(key.fileobj)
                    refused += 1
        assert peak_memory(server.process.pid) - before < (16 + 48) * MIB
        with Rest(address) as rest:
            assert rest.infer(request("gather", index=index(2))).outputs["value"].tolist() == [20]


def test_a_request_that_waits_holds_its_arrays_alone(narrow: LiveServer) -> None:
    """Not the JSON that they were read from, nor its numbers as Python's objects."""
    count = 400_000
    body = json.dumps({"inputs": [tensor("x", "FP32", [1, count], [0.5] * count)]}, separators=(",", ":")).encode()
    tracemalloc.start()
    try:
        with BodyBudget(4 * MIB, 4 * MIB).hold() as held:
            query = HttpInferQuery("free_axis", "", body, {}, held, Call(""))
            before = tracemalloc.get_traced_memory()[0]
            prepared = query.prepare(narrow.model("free_axis"), None)
            assert tracemalloc.get_traced_memory()[0] - before < prepared.inputs["x"].nbytes + 50_000
            assert sys.getrefcount(body) == 2  # this function, and the call of getrefcount
    finally:
        tracemalloc.stop()
    assert prepared.inputs["x"].sum() == count / 2


def peak_memory(pid: int) -> int:
    """The most bytes that a process has had resident."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kib) * 1024
