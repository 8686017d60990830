"""Clients that call servers other than hangtag's, and ports at which no inference server listens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag import Client, ClientError, ConnectionOptions, Outputs
from hangtag.protos import inference_pb2 as pb
from tests.kit.command import refusal
from tests.kit.kinds import Kind, grpc_kinds, http_kinds, message_of
from tests.kit.other_servers import INFERENCE, Answer, grpc_server, output, web_server
from tests.kit.server import server as running_server

NEVER = ConnectionOptions(retries=0)
INPUTS = {"index": np.array([1], np.int64)}
INTERNAL, UNAVAILABLE = grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE


def failure(client: Client, code: grpc.StatusCode) -> str:
    return message_of(code, client.infer, "gather", INPUTS)


def streamed(*outputs: pb.ModelInferResponse.InferOutputTensor, raw: tuple[bytes, ...] = ()) -> Any:
    response = pb.ModelInferResponse(model_name="gather", outputs=outputs, raw_output_contents=raw)
    return pb.ModelStreamInferResponse(infer_response=response)


TYPED = streamed(
    output("scores", "FP32", [2, 2], fp32_contents=[0.5, 1, 1.5, 2]),
    output("count", "INT64", [1], int64_contents=[-7]),
    output("pixel", "UINT8", [2], uint_contents=[0, 255]),
    output("text", "BYTES", [2], bytes_contents=[b"a", "ü".encode()]),
    output("sure", "BOOL", [], bool_contents=[True]),
    output("none", "FP64", [0, 3]),
)
VALUES = {
    "scores": ("float32", [[0.5, 1], [1.5, 2]]),
    "count": ("int64", [-7]),
    "pixel": ("uint8", [0, 255]),
    "text": ("object", [b"a", "ü".encode()]),
    "sure": ("bool", True),
    "none": ("float64", []),
}


def grpc_answering(*responses: pb.ModelStreamInferResponse) -> Any:
    """A server that answers a single call with the first of these responses, and a stream with all of them."""

    def infer(_requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[Any]:
        yield responses[0].infer_response

    return grpc_server({f"{INFERENCE}ModelInfer": infer, f"{INFERENCE}ModelStreamInfer": lambda *_: iter(responses)})


def require_typed(outputs: Outputs | ClientError) -> None:
    assert isinstance(outputs, Outputs), outputs
    assert outputs.model == "gather"
    assert {name: (array.dtype.name, array.tolist()) for name, array in outputs.items()} == VALUES


@grpc_kinds
def test_typed_contents_are_read_over_grpc(kind: Kind) -> None:
    with grpc_answering(TYPED) as address, kind.open(address) as client:
        require_typed(client.infer("gather", INPUTS))
        (answer,) = client.infer_stream("gather", [INPUTS])
        require_typed(answer)


@http_kinds
def test_outputs_in_json_are_read_over_http(kind: Kind) -> None:
    outputs = [
        {"name": "value", "datatype": "FP32", "shape": [2, 1], "data": [1.5, 2]},
        {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "ü"]},
    ]
    body = json.dumps({"model_name": "gather", "outputs": outputs}).encode()
    with web_server(lambda _: (200, {}, body)) as address, kind.open(address) as client:
        answer = client.infer("gather", INPUTS)
    assert (answer["value"].tolist(), answer["text"].tolist()) == ([[1.5], [2.0]], [b"a", "ü".encode()])


@grpc_kinds
@pytest.mark.parametrize(
    ("unreadable", "fact"),
    [
        (streamed(output("x", "FP32", [3], fp32_contents=[1])), "needs 3 elements in fp32_contents, got 1"),
        (streamed(output("x", "FP32", [2]), raw=(b"four",)), "FP32 [2] needs 8 bytes, got 4"),
        (streamed(output("x", "UINT8", [1]), output("y", "UINT8", [1]), raw=(b"1",)), "2 outputs but 1"),
        (streamed(output("x", "FP8", [1]), raw=(b"1",)), "'FP8'"),
    ],
)
def test_what_cannot_be_read_over_grpc_is_an_error_of_the_servers(kind: Kind, unreadable: Any, fact: str) -> None:
    with grpc_answering(unreadable, TYPED) as address, kind.open(address) as client:
        message = failure(client, INTERNAL)
        failed, last = client.infer_stream("gather", [INPUTS])
    assert isinstance(failed, ClientError)
    assert failed.code is INTERNAL
    for each in (message, str(failed)):
        assert "does not follow the Open Inference Protocol" in each
        assert fact in each
    require_typed(last)


@grpc_kinds
@pytest.mark.parametrize("status", [None, "NO_SUCH_STATUS", "NOT_FOUND"])
def test_a_failure_in_a_stream_may_have_a_message_alone(kind: Kind, status: str | None) -> None:
    refusal = pb.ModelStreamInferResponse(error_message="no such model")
    if status is not None:
        refusal.infer_response.parameters["status"].string_param = status
    with grpc_answering(refusal, TYPED) as address, kind.open(address) as client:
        failed, last = client.infer_stream("gather", [INPUTS])
    assert isinstance(failed, ClientError)
    code = grpc.StatusCode.NOT_FOUND if status == "NOT_FOUND" else grpc.StatusCode.UNKNOWN
    assert (failed.code, str(failed)) == (code, "no such model")
    require_typed(last)


@http_kinds
@pytest.mark.parametrize(
    ("answer", "code", "fact"),
    [
        ((302, {"location": "https://x.example/"}, b""), grpc.StatusCode.UNKNOWN, "https://x.example/"),
        ((404, {}, b"<html>"), grpc.StatusCode.UNIMPLEMENTED, "has no /v2/models/gather/infer"),
        ((500, {}, b"<html>Oops"), INTERNAL, "500 <html>Oops"),
        ((500, {}, b'{"error": 5}'), INTERNAL, '500 {"error": 5}'),
        ((502, {}, b""), UNAVAILABLE, "502"),
        ((418, {}, b'{"error": "tea"}'), grpc.StatusCode.UNKNOWN, "tea"),
        ((200, {"content-length": "1000", "connection": "close"}, b"{"), UNAVAILABLE, "broke"),
    ],
)
def test_an_answer_outside_the_protocol_is_explained(
    kind: Kind, answer: Answer, code: grpc.StatusCode, fact: str
) -> None:
    with web_server(lambda _: answer) as address, kind.open(address, options=NEVER) as client:
        assert fact in failure(client, code)


@http_kinds
def test_a_path_stands_before_every_request(kind: Kind) -> None:
    paths = []

    def answer(path: str) -> Answer:
        paths.append(path)
        return 200, {}, b"[]"

    with web_server(answer) as address, kind.open(f"{address}/tenant/a/") as client:
        assert client.models() == []
    assert paths == ["/tenant/a/v2/repository/index"]


@http_kinds
@pytest.mark.parametrize(("status", "ready"), [(200, True), (400, False), (503, False), (404, None)])
def test_readiness_as_triton_answers_it(kind: Kind, status: int, ready: bool | None) -> None:
    """Status 404 means that the model is missing, or that the server does not speak the protocol."""
    with web_server(lambda _: (status, {}, b"")) as address, kind.open(address) as client:
        assert client.is_ready("gather") is bool(ready)
        if ready is None:
            with pytest.raises(ClientError, match="has no /v2/health/ready"):
                client.is_ready()
        else:
            assert client.is_ready() is ready


@pytest.mark.parametrize("arguments", ["", "--wait 0.1"])
def test_a_command_says_that_a_port_is_for_http(arguments: str) -> None:
    with web_server(lambda _: (200, {}, b"hello")) as address:
        message = refusal("health", "--server", address, *arguments.split(), alone=True)
    assert f"the port at {address} speaks HTTP, not gRPC" in message


@grpc_kinds
def test_a_port_for_http_is_no_grpc_port(kind: Kind) -> None:
    with web_server(lambda _: (200, {}, b"hello")) as address, kind.open(address, options=NEVER) as client:
        message = failure(client, UNAVAILABLE)
    assert f"the port at {address} speaks HTTP, not gRPC" in message
    assert f"http://{address}" in message


@http_kinds
@pytest.mark.parametrize("transport", ["native", "grpc"])
def test_a_grpc_port_is_no_port_for_http(kind: Kind, transport: str, models: Path) -> None:
    with (
        running_server(models, http_port=-1, transport=transport) as server,
        kind.open(server.address, options=NEVER) as client,
    ):
        assert f"write {server.address} without a scheme" in failure(client, UNAVAILABLE)
