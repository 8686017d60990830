"""No header's value leaves the server through its log, metrics or traces, and only a valid token is accepted.

Clients of gRPC and of HTTP refuse to send most of these values, so the tests write the requests as bytes.
"""

import base64
import itertools
import json
import random
import signal
import socket
import struct
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from hangtag.protos import classifier_pb2
from tests.kit import onnx_models
from tests.kit.collector import TRACE, TRACEPARENT, collecting
from tests.kit.command import Serving, serving, with_limits
from tests.kit.http2 import DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, OPEN, RST_STREAM, frame, header
from tests.kit.live import index, request
from tests.kit.over_http import HTTP, options_of
from tests.kit.raw import connect
from tests.kit.rest import tensor

SECRET = b"s3cret-0f-0urs-wh1ch-n0b0dy-else-has"
"""The valid token."""
BASE64 = base64.b64encode(SECRET)

OF_CALLERS = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "baggage",
    "x-user-id",
    "triton_grpc_error",
    "x-any",
    "x-any-bin",
]
OF_PROXIES = ["forwarded", "x-forwarded-for", "x-forwarded-proto"]
OF_BROWSERS = ["origin", "referer", "user-agent", "host", "accept", "cookie"]
OF_CONTENT = ["content-type", "content-encoding", "accept-encoding", "inference-header-content-length"]
OF_GRPC = ["grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-tags-bin", "grpc-trace-bin", "grpc-message"]
OF_HTTP2 = ["te", ":authority", ":scheme"]
FRAMING = ["content-length", "transfer-encoding", "expect", "connection", "upgrade"]
NAMES = OF_CALLERS + OF_PROXIES + OF_BROWSERS + OF_CONTENT + OF_GRPC + OF_HTTP2 + FRAMING
"""The headers that the server or one of its libraries reads, and some headers that nothing reads."""

VALUES = (
    SECRET,
    b"\xa0" + SECRET,
    SECRET + b"\xff",
    "ü".encode() + SECRET,
    SECRET + b"\x00",
    b'"' + SECRET,
    b"%zz%" + SECRET + b"%",
    b"1; q=" + SECRET,
    TRACEPARENT.encode() + b"-" + SECRET,
    b"01" + TRACEPARENT[2:].encode() + b"-" + SECRET,  # in later versions of this W3C format, more fields may follow
    b"vendor=" + SECRET,
    b"!!!=" + SECRET,
    b"text/plain; version=" + SECRET,
    b"application/openmetrics-text; version=" + SECRET,
    b"multipart/form-data; boundary=" + SECRET,
    BASE64,
)

_AFTER = (b"\xa0", b"\xc2\xa0", b"\x85", b"\xff", b"x", b"\x1f", b"\xe2\x80\x83", b"=", b",", b"\x00")
_BEFORE = (b"\xa0", b"\x1f", b"\xc2\xa0", b"x", b'"', b"\x00")
NO_TOKENS = (
    *(b"Bearer " + SECRET + end for end in _AFTER),
    *(b"Bearer " + start + SECRET for start in _BEFORE),
    *(scheme + SECRET for scheme in (b"Bearer\xa0", b"Bearer\t", b"\xa0Bearer ", b"Basic ", b"Bearer", b"")),
    b"Bearer " + SECRET[:-1],
    b"Bearer " + SECRET.upper(),
)
"""Values of the header ``authorization`` that must be refused, although most of them contain the valid token."""

SERVICE = "/inference.GRPCInferenceService/"
SHAPE = 1 << 23
"""An output with two axes of this size exceeds the address space, so ONNX Runtime fails."""
INFER = request("gather", index=index(1)).SerializeToString()
FAIL = request("filled", shape=np.array([SHAPE, SHAPE], np.int64)).SerializeToString()
GRPC_CALLS = (
    (f"{SERVICE}ModelInfer", INFER),
    (f"{SERVICE}ModelInfer", FAIL),
    (f"{SERVICE}ModelInfer", request("split", index=index(1)).SerializeToString()),
    (f"{SERVICE}ModelStreamInfer", FAIL),
    (f"{SERVICE}ServerReady", b""),
    ("/hangtag.v1.Classifier/Classify", classifier_pb2.ClassifyRequest(model_name="gather").SerializeToString()),
    ("/hangtag.v1.Classifier/Compare", b""),
    ("/grpc.health.v1.Health/Check", b""),
    ("/no.such/Method", b""),
)
INFER_JSON = json.dumps({"inputs": [tensor("index", "INT64", [1], [1])]}).encode()
FAIL_JSON = json.dumps({"inputs": [tensor("shape", "INT64", [2], [SHAPE, SHAPE])]}).encode()
HTTP_CALLS = (
    ("POST", "/v2/models/gather/infer", INFER_JSON),
    ("POST", "/v2/models/filled/infer", FAIL_JSON),
    ("POST", "/v2/models/split/infer", INFER_JSON),
    ("POST", "/v1/classify/gather", b"no picture"),
    ("POST", "/v2/repository/models/gather/load", b""),
    ("GET", "/metrics", b""),
    ("GET", "/v2", b""),
    ("GET", "/no/such/path", b""),
)


Headers = dict[str, bytes]


def over_http2(address: str, method: str, message: bytes, headers: Headers) -> bool:
    """Make a call on a separate connection, and wait for its end. Return True if the answer had a message."""
    default: Headers = {":method": b"POST", ":scheme": b"http", ":path": method.encode(), ":authority": b"here"}
    default |= {"te": b"trailers", "content-type": b"application/grpc"}
    block = b"".join(header(name, value) for name, value in (default | headers).items())
    content = b"\x00" + struct.pack(">I", len(message)) + message
    answered = False
    with connect(address) as connection, suppress(ConnectionError), connection.makefile("rb") as received:
        head = frame(HEADERS, block, flags=END_HEADERS, stream=1)
        connection.sendall(OPEN + head + frame(DATA, content, flags=END_STREAM, stream=1))
        while len(head := received.read(9)) == 9:
            size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            received.read(size)
            answered = answered or (kind == DATA and size > 0)
            if kind in (RST_STREAM, GOAWAY) or (kind in (HEADERS, DATA) and flags & END_STREAM):
                break
    return answered


def over_http(address: str, verb: str, path: str, body: bytes, headers: Headers) -> int:
    """Make a request on a separate connection. Return the status, or 0 if the connection ends without a status."""
    sent: Headers = {"host": b"here", "content-length": str(len(body)).encode()} | headers
    lines = [f"{verb} {path} HTTP/1.1".encode(), *(name.encode() + b": " + value for name, value in sent.items())]
    status = b""
    with connect(address) as connection, suppress(ConnectionError), connection.makefile("rb") as received:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        if headers.keys() & set(FRAMING):
            connection.shutdown(socket.SHUT_WR)  # otherwise the server might wait for the rest of a body
        status = received.readline()
    return int(status.split()[1]) if status else 0


def cases() -> Iterator[Headers]:
    """Pair each value with traceparent, tracestate and a random header, and pair each header with a random value."""
    chosen = random.Random(0)
    for value in VALUES:
        yield from ({name: value} for name in ("traceparent", "tracestate", chosen.choice(NAMES)))
    yield from ({name: chosen.choice(VALUES)} for name in NAMES)


def test_no_value_of_a_header_is_put_out_and_tokens_are_compared_byte_for_byte(
    models: Path, tmp_path: Path, transport: str
) -> None:
    """The server has tokens, tracing and metrics, and its log has no rate limit."""
    onnx_models.publish_all(models, "filled")
    onnx_models.publish_route(models, "split", 'split = {gather = 100}\nsticky = "x-user-id"\n')
    (tmp_path / "tokens").write_bytes(SECRET)
    options = ("--models", models, "--port", 0, *options_of(transport), "--token-file", tmp_path / "tokens")
    unlimited = with_limits(log_burst=1_000_000)
    with (
        collecting() as collector,
        serving(*options, "--otlp-endpoint", collector.endpoint, first=unlimited) as server,
    ):
        (send_over_http if transport == HTTP else send_over_grpc)(server)
        require_tokens(server, transport)
        metrics = server.metrics()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        printed = metrics + server.process.stdout.read() + "".join(server.log)
        output = printed.encode() + b"".join(each.SerializeToString() for each in collector.resources)
    for text in (b'event="request failed"', b"nv_inference_request_success", TRACE.to_bytes(16, "big")):
        assert text in output  # the requests have reached the log, the metrics and the traces
    assert [line for line in output.splitlines() if SECRET in line or BASE64[:-4] in line] == []


ALWAYS = {"authorization": b"Bearer " + SECRET, "traceparent": TRACEPARENT.encode()}


def send_over_grpc(server: Serving) -> None:
    """Send each case's headers with a failing call and two other calls, in parallel, because Envoy can be slow."""
    calls = itertools.cycle(GRPC_CALLS)
    sent = [
        (server.address, method, message, ALWAYS | case)
        for case in cases()
        for method, message in ((f"{SERVICE}ModelInfer", FAIL), *itertools.islice(calls, 2))
    ]
    with ThreadPoolExecutor(64) as pool:
        list(pool.map(over_http2, *zip(*sent, strict=True)))


def send_over_http(server: Serving) -> None:
    """Send each case to the HTTP port and to the metrics port. Only the path ``/metrics`` reads the header Accept."""
    calls = itertools.cycle(HTTP_CALLS)
    metrics = urllib.parse.urlsplit(server.metrics_url).netloc
    for case in cases():
        for verb, path, body in (("POST", "/v2/models/filled/infer", FAIL_JSON), *itertools.islice(calls, 2)):
            over_http(server.http_address, verb, path, body, ALWAYS | case)
        over_http(metrics, "GET", "/metrics" if "accept" in case else "/v2/health/live", b"", ALWAYS | case)


def require_tokens(server: Serving, transport: str) -> None:
    def admitted(value: bytes) -> set[bool]:
        sent = {"authorization": value}
        if transport == HTTP:
            return {
                over_http(server.http_address, "GET", "/v2", b"", sent) == 200,
                over_http(server.http_address, "POST", "/v2/models/gather/infer", INFER_JSON, sent) == 200,
            }
        return {
            over_http2(server.address, f"{SERVICE}ModelInfer", INFER, sent),
            over_http2(server.address, f"{SERVICE}ServerReady", b"", sent),
        }

    for scheme in (b"Bearer ", b"bearer ", b"BEARER   "):
        assert admitted(scheme + SECRET) == {True}
    for value in NO_TOKENS:
        assert admitted(value) == {False}, value
