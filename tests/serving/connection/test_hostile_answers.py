"""Whatever an HTTP server answers, a client either returns a value or raises ClientError."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hangtag.protos import tensors
from hangtag.serving.client import Client, ClientError, ConnectionOptions, Outputs
from tests.kit.kinds import Kind, http_kinds
from tests.kit.other_servers import Answer, answering, listener, web_server

NEVER = ConnectionOptions(retries=0)
PIXELS = np.zeros((28, 28), np.uint8)
DEEP = b"[" * 100_000
HEAD_LENGTH = "inference-header-content-length"
OPERATIONS: dict[str, Callable[[Client], object]] = {
    "infer": lambda client: client.infer("gather", {"index": np.array([1])}),
    "infer_stream": lambda client: list(client.infer_stream("gather", [{"index": np.array([1])}])),
    "classify": lambda client: client.classify(PIXELS, "cnn"),
    "compare": lambda client: client.compare(PIXELS, ["lstm", "cnn"]),
    "parameters": lambda client: client.parameters("cnn"),
    "models": lambda client: client.models(),
    "statistics": lambda client: client.statistics(),
    "is_ready": lambda client: client.is_ready(),
    "is_ready of a model": lambda client: client.is_ready("cnn"),
}
READY = {"is_ready", "is_ready of a model"}
"""The operations that read only an answer's status, because Triton's answers about readiness have no body."""


def outcome(client: Client, operation: str) -> object:
    """The result of an operation, or the ClientError that it raised. Any other exception fails the test."""
    try:
        result = OPERATIONS[operation](client)
    except ClientError as error:
        return error
    return result[0] if isinstance(result, list) and operation == "infer_stream" else result


def infer_answer(datatype: str, data: Any, shape: Any = (1,)) -> bytes:
    output = {"name": "value", "datatype": datatype, "shape": list(shape), "data": data}
    return json.dumps({"model_name": "gather", "outputs": [output]}).encode()


@http_kinds
@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, b'{"error": ' + DEEP) for status in (400, 404, 500, 503)),
        (200, DEEP),
        (200, b'{"outputs": [' + b"9" * 100_000 + b"]}"),
        (200, b'{"model_name": "\xff"}'),
        (200, b'"\\ud800"'),
        (200, b"[NaN]"),
        (200, b"\x1f\x8b\x08\x00"),
        (200, b""),
        (200, b'{"labels": [{"index": 1e400}], "model_stats": [{"inference_count": 1e400}], "max_batch_size": 1e400}'),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else str(value),
)
def test_a_body_that_cannot_be_read_is_a_client_error(kind: Kind, status: int, body: bytes) -> None:
    with web_server(lambda _: (status, {}, body)) as address, kind.open(address, options=NEVER) as client:
        for operation in OPERATIONS:
            result = outcome(client, operation)
            readiness = operation in READY and result is (status == 200)
            assert isinstance(result, ClientError) or readiness, operation


@http_kinds
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (infer_answer("UINT8", [-1]), "data of output 'value' holds values outside UINT8's range 0 to 255"),
        (infer_answer("UINT64", [2**64]), "outside UINT64's range 0 to 18446744073709551615"),
        (infer_answer("FP32", [10**400]), "outside FP32's range"),
        (infer_answer("INT64", [float("nan")]), "NaN"),
        (infer_answer("INT64", [float("inf")]), "outside INT64's range"),
        (infer_answer("INT64", [[1], [1, 2]]), "ValueError"),
        (infer_answer("INT64", {}), "TypeError"),
        (infer_answer("INT64", [1], [2**70]), "ValueError"),
        (infer_answer("INT64", [1], [1] * 70), "ValueError"),
        (infer_answer("BYTES", ["\ud800"]), "text that UTF-8 cannot encode"),
        (infer_answer("BYTES", [["a"], ["a", "b"]], [2]), "ValueError"),
        (infer_answer("COMPLEX", [1]), "KeyError"),
        (b'{"model_name": "\\ud800", "outputs": []}', "UnicodeEncodeError"),
        (DEEP, "RecursionError"),
    ],
    ids=lambda value: value[:100].decode() if isinstance(value, bytes) else "",
)
def test_values_that_a_datatype_does_not_have_are_named(kind: Kind, body: bytes, problem: str) -> None:
    with web_server(lambda _: (200, {}, body)) as address, kind.open(address, options=NEVER) as client:
        for operation in ("infer", "infer_stream"):
            result = outcome(client, operation)
            assert isinstance(result, ClientError), result
            assert "does not follow the Open Inference Protocol (" in str(result)
            assert problem in str(result)


@http_kinds
def test_an_answer_of_null_in_a_comparison_is_a_client_error(kind: Kind) -> None:
    several = json.dumps({"outcomes": [{"model_name": name, "answer": None} for name in ("lstm", "cnn")]}).encode()
    left = iter((b"null", several))
    with web_server(lambda _: (200, {}, next(left))) as address, kind.open(address, options=NEVER) as client:
        for models in (["cnn"], ["lstm", "cnn"]):
            with pytest.raises(ClientError, match="does not follow the Open Inference Protocol"):
                client.compare(PIXELS, models)


def with_binary_size(size: Any) -> Answer:
    """An answer whose JSON states this binary_data_size, followed by four bytes of binary data."""
    output = {"name": "value", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": size}}
    head = json.dumps({"model_name": "gather", "outputs": [output]}).encode()
    return 200, {HEAD_LENGTH: str(len(head))}, head + bytes(4)


@http_kinds
@pytest.mark.parametrize(
    ("answers", "errors"),
    [
        (
            [
                (200, {f"hangtag-{name}": value}, infer_answer("INT64", [1]))
                for name in ("queue-ns", "compute-ns", "batch-size", "unsure", "stage", "stages")
                for value in ("9" * 4000, "-", "1.5", f"a;samples=9;queue-ns={'9' * 4000};compute-ns=1;batch-size=1")
            ],
            ClientError | Outputs,
        ),
        (
            [
                (200, {HEAD_LENGTH: length}, infer_answer("INT64", [1]))
                for length in ("-1", "1", "999999", "x", "1.5", "9" * 5000, "")
            ],
            ClientError,
        ),
        (list(map(with_binary_size, (-1, -(2**70), 2**70, 1.5, "4", None, [], True))), ClientError),
    ],
    ids=["costs", "lengths of the head", "sizes of binary data"],
)
def test_headers_and_sizes_that_lie_are_a_client_error(kind: Kind, answers: list[Answer], errors: Any) -> None:
    left = iter(answers)
    with web_server(lambda _: next(left)) as address, kind.open(address, options=NEVER) as client:
        for answer in answers:
            assert isinstance(outcome(client, "infer"), errors), answer


KEYS_OF_TENSORS = ["outputs", "name", "datatype", "shape", "data", "parameters", "binary_data_size"]
KEYS_OF_MODELS = ["model_name", "version", "labels", "outcomes", "answer", "model_stats", "config"]
keys = st.sampled_from([*KEYS_OF_TENSORS, *KEYS_OF_MODELS, "error", "status", "ready"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["UINT8", "BYTES"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=12,
)
bodies = st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode())
infer_answers = st.builds(
    infer_answer,
    st.sampled_from(list(tensors.DTYPES)),
    st.lists(st.integers() | st.floats() | json_values, min_size=1, max_size=1) | json_values,
)


@http_kinds
@pytest.mark.parametrize("operations", [["infer"], list(OPERATIONS)], ids=["infer", "any"])
def test_any_body_is_a_client_error_or_a_value(kind: Kind, operations: list[str]) -> None:
    answers: list[Answer] = [(200, {}, b"")]
    with web_server(lambda _: answers[0]) as address, kind.open(address, options=NEVER) as client:

        @settings(max_examples=80, deadline=None)
        @given(
            status=st.sampled_from([200, 200, 200, 400, 404, 503]),
            head=st.none() | st.integers(-10, 300),
            body=infer_answers if operations == ["infer"] else bodies,
            operation=st.sampled_from(operations),
        )
        def answer(status: int, head: int | None, body: bytes, operation: str) -> None:
            headers = {} if head is None else {HEAD_LENGTH: str(head)}
            answers[0] = (status, headers, body)
            outcome(client, operation)

        answer()


OK = b"HTTP/1.1 200 OK\r\n"


@http_kinds
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00" * 100,
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        OK + b"content-length: -1\r\n\r\n",
        OK + b"content-length: abc\r\n\r\n",
        OK + b"content-length: " + b"9" * 5000 + b"\r\n\r\n[]",
        OK + b"content-length: 1, 1\r\n\r\n[]",
        OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n[]",
        OK + b"content-length: 1000\r\n\r\n[]",
        OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        OK + b"transfer-encoding: gzip\r\n\r\n[]",
        OK + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00",
        OK + b"a" * 200_000,
        OK + b"x: \xff\xfe\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 302 Found\r\nlocation: http://[::1\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: http://\xff:99999/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
    ],
    ids=lambda answer: repr(answer[:60]),
)
def test_headers_that_lie_are_a_client_error(kind: Kind, answer: bytes) -> None:
    with listener(answering(lambda: answer)) as address, kind.open(address, options=NEVER) as client:
        assert isinstance(outcome(client, "infer"), ClientError)


@http_kinds
def test_any_answer_is_a_client_error_or_a_value(kind: Kind) -> None:
    names = ["content-length", "transfer-encoding", "content-encoding", "location", "connection", "hangtag-queue-ns"]
    header = st.tuples(st.sampled_from(names).map(str.encode), st.binary(max_size=12)).map(b": ".join)
    head = st.lists(header | st.binary(max_size=20), max_size=3).map(b"\r\n".join)
    answers = [b""]
    with listener(answering(lambda: answers[0])) as address, kind.open(address, options=NEVER) as client:

        @settings(max_examples=60, deadline=None)
        @given(status=st.integers(0, 1000), head=head, body=bodies)
        def answer(status: int, head: bytes, body: bytes) -> None:
            answers[0] = b"HTTP/1.1 %d X\r\n%b\r\n\r\n%b" % (status, head, body)
            outcome(client, "infer")

        answer()
