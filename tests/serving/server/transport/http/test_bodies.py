"""Bodies of HTTP requests that are compressed, too large, or too many at a time."""

import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.kit.live import LiveServer, index, request
from tests.kit.over_http import live_server
from tests.kit.raw import POST, connected, status_line
from tests.kit.rest import Rest, as_http, tensor
from tests.kit.waiting import until

MIB = 1 << 20
X = tensor("x", "FP32", [1, 1], [1])
SENT = json.dumps({"inputs": [X]}).encode()
INFER, CLASSIFY = "/v2/models/free_axis/infer", "/v1/classify/classifier"
GZIPPED = {"content_encoding": "gzip"}
GZIP, DEFLATE = gzip.compress(SENT), zlib.compress(SENT)


DAMAGED: dict[str, tuple[str, bytes, int, str]] = {
    "unknown": ("br", SENT, 415, "the Content-Encoding 'br' is not supported; send gzip, deflate, or none"),
    "cut": ("gzip", GZIP[:-6], 400, "the gzip body ends early"),
    "more": ("gzip", GZIP + b"x", 400, "gzip"),
    "none": ("gzip", SENT, 400, "gzip"),
    "bomb": ("gzip", gzip.compress(bytes(8 * MIB)), 413, "larger than max (1048576 bytes when decompressed)"),
    "second cut": ("gzip", gzip.compress(b"") + GZIP[:-3], 400, "the gzip body ends early"),
    "zeros": ("gzip", GZIP + b"\0" * 20, 400, "the Content-Encoding is gzip, but the body has another format"),
    "too many members": ("gzip", gzip.compress(b"") * 20_000, 400, "the gzip body has more than 16,384 members"),
    "bomb in members": ("gzip", gzip.compress(bytes(MIB // 2)) * 3, 413, "larger than max (1048576 bytes when decomp"),
    "deflate cut": ("deflate", DEFLATE[:-6], 400, "deflate"),
    "deflate none": ("deflate", SENT, 400, "deflate"),
    "deflate bomb": ("deflate", zlib.compress(bytes(8 * MIB)), 413, "larger than max (1048576 bytes when decompress"),
    "deflate twice": ("deflate", DEFLATE * 2, 400, "the body has trailing bytes after its deflate data"),
}


@pytest.mark.parametrize("path", [INFER, CLASSIFY])
@pytest.mark.parametrize(("encoding", "body", "status", "sentence"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_body_that_cannot_be_decompressed(
    rest: Rest, path: str, encoding: str, body: bytes, status: int, sentence: str
) -> None:
    answer = rest.post(path, body, content_encoding=encoding)
    assert (answer.status, sentence in answer.error) == (status, True), answer.error
    assert answer.headers.get("connection") == ("close" if status == 413 else None)


@pytest.mark.parametrize("count", [2, 500])
def test_a_gzip_body_may_have_several_members(rest: Rest, count: int) -> None:
    head = json.dumps({"inputs": [tensor("x", "FP32", [1, 50_000], [1] * 50_000)]}).encode()
    size = -(-len(head) // count)
    members = b"".join(gzip.compress(head[at : at + size]) for at in range(0, len(head), size))
    answer = rest.post(INFER, members + gzip.compress(b""), content_encoding="gzip")
    assert answer.outputs["total"].tolist() == [[50_000]]


@pytest.mark.parametrize("path", [INFER, CLASSIFY])
def test_a_body_over_the_limit_is_refused_though_the_client_sends_it_first(rest: Rest, path: str) -> None:
    answer = rest.post(path, bytes(8 * MIB))
    assert (answer.status, f"larger than max ({8 * MIB} vs. {MIB})" in answer.error) == (413, True)
    assert rest.infer_json("free_axis", X).status == 200  # the client has opened a new connection


def test_more_json_than_is_read_in_one_go_is_refused_and_tensors_as_binary_data_are_not(few: Path) -> None:
    with live_server("grpc", few, http_port=0) as live:
        with Rest(live.server.http_address) as rest:
            answer = rest.post(INFER, b'{"inputs": [' + bytes(5 * MIB))
            assert answer.status == 413
            assert "at most 4,194,304 are read. Send large tensors as binary data" in answer.error
        with Rest(live.server.http_address) as rest:  # a new connection, because the server ended the first one
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
    """A request for the model free_axis with a tensor of this many bytes, all of them 0."""
    return as_http(request("free_axis", x=np.zeros((1, size // 4), np.float32)))


@pytest.fixture
def narrow(few: Path) -> Iterator[LiveServer]:
    """A server whose HTTP requests in flight may take one MiB in total."""
    with live_server("grpc", few, http_port=0, max_message_mib=1, max_http_bodies_mib=1, instances=1) as live:
        yield live


def test_the_bodies_in_flight_share_their_memory(narrow: LiveServer) -> None:
    path, body, headers = large_request(700_000)
    with narrow.gates.closed("free_axis") as gate, Rest(narrow.server.http_address) as first:
        first.connection.request("POST", path, body, headers)
        gate.wait_until_computing()
        with Rest(narrow.server.http_address) as other:
            packed = gzip.compress(body)
            for answer in (
                other.post(path, body, **headers),
                other.post(path, packed, **headers, content_encoding="gzip"),
                other.post(CLASSIFY, packed, content_encoding="gzip"),
            ):
                assert (answer.status, answer.headers["retry-after"]) == (429, "1")
                assert "more than 1,048,576 bytes (--max-http-bodies-mib)" in answer.error
            assert other.infer(request("gather", index=index(2))).outputs["value"].tolist() == [20]
            gate.open()
            assert first.connection.getresponse().status == 200
            assert other.post(path, body, **headers).status == 200
        # A request that is refused before it is read counts for no model.
        assert narrow.statistics("free_axis").inference_stats.fail.count == 1


def test_arrays_that_take_more_than_their_json_count_as_they_are(narrow: LiveServer) -> None:
    many = json.dumps({"inputs": [tensor("x", "FP32", [1, 300_000], [1] * 300_000)]}, separators=(",", ":"))
    texts = json.dumps({"inputs": [tensor("x", "BYTES", [1, 30_000], ["ab"] * 30_000)]}, separators=(",", ":"))
    assert max(len(many), len(texts)) < 0.6 * MIB
    with Rest(narrow.server.http_address) as rest:
        for body in (many, texts):
            answer = rest.post(INFER, body)
            assert (answer.status, "--max-http-bodies-mib" in answer.error) == (429, True)
    assert narrow.statistics("free_axis").inference_stats.fail.count == 2


def has_room(live: LiveServer, size: int) -> bool:
    """Return True if the server has room for a body of this size: it then answers 400, because the body is no image."""
    with Rest(live.server.http_address) as other:
        status = other.post(CLASSIFY, bytes(size)).status
    assert status in (400, 429)
    return status == 400


def test_a_client_that_leaves_gives_its_memory_back(narrow: LiveServer) -> None:
    """A body occupies memory while it arrives and while its request is computed."""
    path, body, headers = large_request(700_000)
    with narrow.gates.closed("free_axis") as gate:
        with Rest(narrow.server.http_address) as leaving:
            leaving.connection.request("POST", path, body, headers)
            gate.wait_until_computing()
            assert not has_room(narrow, 700_000)
        until(lambda: has_room(narrow, 700_000))
    for _ in range(3):
        with connected(narrow) as early, Rest(narrow.server.http_address) as other:
            early.sendall(POST + b"Content-Length: 700001\r\n\r\n" + bytes(700_000))
            # Meanwhile, the server reads most of the body.
            assert [other.get("/v2/health/live").status for _ in range(9)] == [200] * 9
            until(lambda: not has_room(narrow, 700_000))
    until(lambda: has_room(narrow, 700_000))


def test_a_body_that_is_decompressed_after_its_caller_has_left_takes_no_memory_for_ever(few: Path) -> None:
    """The body has the maximum number of gzip members, so a thread decompresses it for a tenth of a second."""
    packed = gzip.compress(bytes(900)) * 16_000
    with (
        live_server("grpc", few, http_port=0, instances=1, max_message_mib=16, max_http_bodies_mib=16) as live,
        Rest(live.server.http_address) as other,
    ):
        for requests in range(20):
            with Rest(live.server.http_address) as leaving:
                leaving.connection.request("POST", INFER, packed, {"content-encoding": "gzip"})
                assert [other.get("/v2/health/live").status for _ in range(2 * requests)] == [200] * 2 * requests
        until(lambda: has_room(live, 15 * MIB))


def zeros() -> bytes:
    return gzip.compress(bytes(150 * MIB), 1)


def inputs() -> bytes:
    return json.dumps({"inputs": [{"name": str(each)} for each in range(200_000)]}).encode()


@pytest.mark.parametrize(
    ("path", "make", "headers"),
    [(INFER, zeros, GZIPPED), (CLASSIFY, zeros, GZIPPED), (INFER, inputs, {})],
    ids=["compressed", "compressed picture", "JSON"],
)
def test_others_are_answered_while_a_body_is_read_that_takes_long(
    few: Path, path: str, make: Callable[[], bytes], headers: dict[str, str]
) -> None:
    body = make()
    with (
        live_server("grpc", few, http_port=0, max_message_mib=512) as live,
        Rest(live.server.http_address) as rest,
        Rest(live.server.http_address) as other,
        futures.ThreadPoolExecutor() as pool,
    ):
        times = [time.monotonic()]
        slow = pool.submit(rest.post, path, body, **headers)
        while not slow.done():
            assert other.get("/v2/health/ready").status == 200
            times.append(time.monotonic())
        assert slow.result().status in (400, 413)
    assert max(np.diff(times)) < (times[-1] - times[0]) * 0.7


def test_requests_that_wait_hold_their_arrays_alone(few: Path) -> None:
    """While requests wait, the server keeps neither their JSON nor their numbers as Python objects."""
    count, callers = 50_000, 5
    body = json.dumps({"inputs": [tensor("x", "FP32", [1, count], [0.5] * count)]}, separators=(",", ":")).encode()
    with (
        live_server("grpc", few, http_port=0, instances=1, max_batch_size=1) as live,
        live.gates.closed("free_axis") as gate,
        ExitStack() as stack,
    ):
        opened = [stack.enter_context(Rest(live.server.http_address)) for _ in range(callers)]
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for each in opened:
                each.connection.request("POST", INFER, body)
            gate.wait_until_computing()
            live.wait_until_queued("free_axis", callers - 1)
            taken = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        gate.open()
        assert [each.connection.getresponse().status for each in opened] == [200] * callers
    assert taken / callers < 1.25 * 4 * count
