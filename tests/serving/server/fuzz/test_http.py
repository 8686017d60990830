"""For any bytes of an HTTP request, the server answers or returns an error that explains the fault.

The server must not crash, and refusals must not increase its memory or its log. test_openapi compares answers with the
server's OpenAPI description."""

import gzip
import http.client
import json
import os
import socket
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hangtag.protos import inference_pb2 as pb
from tests.kit import requests
from tests.kit.raw import connect
from tests.kit.rest import HEAD_LENGTH, as_http
from tests.kit.target import Target
from tests.kit.waiting import TIMEOUT

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("target", ["native"], indirect=True, scope="module")]

CASES = int(os.environ.get("FUZZ_CASES", "60"))
"""The number of examples in each test of this file."""
ANSWERS = {200, 400, 404, 405, 408, 413, 415, 431}
INFER = ["/v2/models/free_axis/infer", "/v2/models/every_type/versions/1/infer", "/v2/models/text/infer"]
REPOSITORY = ["/v2/repository/index", "/v2/repository/models/text/load", "/v2/repository/models/text/unload"]
CLASSIFY = ["/v1/classify", "/v1/classify/lstm", "/v1/classify/lstm,classifier"]
PATHS = [*INFER, *REPOSITORY, *CLASSIFY, "/v2", "/metrics", "/v2/models/stats"]

fuzzed = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def connection(target: Target) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(target.http_address, timeout=TIMEOUT)
    yield connection
    connection.close()


def send(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str], method: str = "POST"
) -> int:
    """Send a request and return the status of its answer. A missing or unexpected answer fails the test."""
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status in ANSWERS, f"{method} {path} ended with {answer.status}: {content[:500]!r}"
    assert int(answer.headers["content-length"]) == len(content)
    if answer.status != 200:
        assert json.loads(content)["error"]
    return answer.status


def with_values(sent: pb.ModelInferRequest) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a request, with typed contents in the JSON. Inputs and contents may differ in number."""
    inputs: list[dict[str, Any]] = []
    for place, tensor in enumerate(sent.inputs):
        values = [value for _, field in tensor.contents.ListFields() for value in field]
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if tensor.HasField("contents"):
            described["data"] = [value.decode("latin-1") if isinstance(value, bytes) else value for value in values]
        if place < len(sent.raw_input_contents):
            described["parameters"] = {"binary_data_size": len(sent.raw_input_contents[place])}
        inputs.append(described)
    outputs = [{"name": output.name, "parameters": {"binary_data": True}} for output in sent.outputs]
    head = json.dumps({"inputs": inputs, "outputs": outputs, "id": sent.id}).encode()
    return b"".join((head, *sent.raw_input_contents)), {HEAD_LENGTH: str(len(head))}


@fuzzed
@given(sent=requests.nearly_good() | requests.anything)
def test_a_good_request_with_something_changed(
    connection: http.client.HTTPConnection, sent: pb.ModelInferRequest
) -> None:
    body, headers = with_values(sent)
    version = f"/versions/{quote(sent.model_version, safe='')}" if sent.model_version else ""
    send(connection, f"/v2/models/{quote(sent.model_name, safe='')}{version}/infer", body, headers)


@fuzzed
@given(
    body=st.binary(max_size=60) | st.builds(gzip.compress, st.binary(max_size=60)) | st.just(zlib.compress(b"{}")),
    path=st.sampled_from(PATHS),
    headers=st.fixed_dictionaries(
        {},
        optional={
            "content-encoding": st.sampled_from(["gzip", "deflate", "br", "identity", "gzip, gzip", ""]),
            HEAD_LENGTH: st.integers(-2, 70).map(str) | st.sampled_from(["", "x", "1e3", "9" * 500]),
            "accept-encoding": st.sampled_from(["gzip", "deflate;q=0", "*", ";;q=,", "gzip;q=x"]),
            "content-type": st.sampled_from(["multipart/form-data", "multipart/form-data; boundary=", "text/plain"]),
            "accept": st.sampled_from(["application/openmetrics-text; version=x", "text/plain;version=1.0.0", ","]),
            "traceparent": st.sampled_from(["", "00-0-0-00"]),
        },
    ),
)
def test_any_bytes_and_headers(
    connection: http.client.HTTPConnection, body: bytes, path: str, headers: dict[str, str]
) -> None:
    send(connection, path, body, headers)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """The bytes of a complete HTTP request, some of which are changed."""
    path, body, headers = as_http(requests.good(draw(st.sampled_from(requests.MODELS))))
    lines = [f"POST {path} HTTP/1.1", "host: here", *(f"{name}: {value}" for name, value in headers.items())]
    framing = draw(st.sampled_from(["length", "chunks"]))
    if framing == "length":
        lines.append(f"content-length: {len(body)}")
    else:
        lines.append("transfer-encoding: chunked")
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    data = bytearray("\r\n".join([*lines, "", ""]).encode() + body)
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, len(data)) | st.integers(0, 200))
        data[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=6))
    return bytes(data)


@fuzzed
@given(data=mangled())
def test_requests_with_bytes_changed(target: Target, data: bytes) -> None:
    with connect(target.http_address, data) as connection:
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").readline()
    if answer:  # an incomplete request gets no answer
        assert int(answer.split()[1]) in ANSWERS | {100, 501, 505}
