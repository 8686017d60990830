"""Clients over gRPC at servers of the Open Inference Protocol that are not hangtag's."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.client import ClientError, Outputs
from tests.kit.kinds import KINDS, Kind

INPUTS = {"x": np.array([1], np.int64)}
pytestmark = pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.http], ids=str)


class Foreign(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers a call with its first response, and a stream with all of them."""

    def __init__(self, responses: tuple[pb.ModelStreamInferResponse, ...]) -> None:
        self._responses = responses

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        return self._responses[0].infer_response

    def ModelStreamInfer(
        self, requests: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        yield from self._responses


class Refusing(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """Ends each Watch with a failure."""

    def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "there is no replica")


@contextmanager
def serving(*responses: pb.ModelStreamInferResponse) -> Iterator[str]:
    """HOST:PORT of a server that answers so."""
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Foreign(responses), server)
        health_pb2_grpc.add_HealthServicer_to_server(Refusing(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def answer(*outputs: tuple[str, str, list[int], dict[str, Any]], raw: tuple[bytes, ...] = ()) -> Any:
    """A response with outputs, each by its name, datatype, shape and typed contents."""
    return pb.ModelStreamInferResponse(
        infer_response=pb.ModelInferResponse(
            model_name="foreign",
            outputs=[
                pb.ModelInferResponse.InferOutputTensor(
                    name=name, datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents)
                )
                for name, datatype, shape, contents in outputs
            ],
            raw_output_contents=raw,
        )
    )


TYPED = answer(
    ("scores", "FP32", [2, 2], {"fp32_contents": [0.5, 1, 1.5, 2]}),
    ("count", "INT64", [1], {"int64_contents": [-7]}),
    ("pixel", "UINT8", [2], {"uint_contents": [0, 255]}),
    ("text", "BYTES", [2], {"bytes_contents": [b"a", "ü".encode()]}),
    ("sure", "BOOL", [], {"bool_contents": [True]}),
    ("none", "FP64", [0, 3], {}),
)


def require_typed(outputs: Outputs | ClientError) -> None:
    assert isinstance(outputs, Outputs), outputs
    assert outputs.model == "foreign"
    assert {name: array.tolist() for name, array in outputs.items()} == {
        "scores": [[0.5, 1], [1.5, 2]],
        "count": [-7],
        "pixel": [0, 255],
        "text": [b"a", "ü".encode()],
        "sure": True,
        "none": [],
    }
    dtypes = [array.dtype.name for array in outputs.values()]
    assert dtypes == ["float32", "int64", "uint8", "object", "bool", "float64"]


def test_typed_contents_are_read(kind: Kind) -> None:
    with serving(TYPED) as address, kind.open(address) as client:
        require_typed(client.infer("foreign", INPUTS))
        (streamed,) = client.infer_stream("foreign", [INPUTS])
        require_typed(streamed)


@pytest.mark.parametrize(
    ("unreadable", "reason"),
    [
        (answer(("x", "FP32", [3], {"fp32_contents": [1]})), "needs 3 elements in fp32_contents, got 1"),
        (answer(("x", "FP32", [2], {}), raw=(b"four",)), r"FP32 \[2\] needs 8 bytes, got 4"),
        (answer(("x", "UINT8", [1], {}), ("y", "UINT8", [1], {}), raw=(b"1",)), "2 outputs have 1 raw_output_contents"),
        (answer(("x", "FP8", [1], {}), raw=(b"1",)), "unknown datatype 'FP8'"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_the_servers(kind: Kind, unreadable: Any, reason: str) -> None:
    message = f"the answer of the server is not of the Open Inference Protocol .*{reason}"
    with serving(unreadable, TYPED) as address, kind.open(address) as client:
        with pytest.raises(ClientError, match=message) as caught:
            client.infer("foreign", INPUTS)
        assert caught.value.code is grpc.StatusCode.INTERNAL
        failed, last = client.infer_stream("foreign", [INPUTS])
        assert isinstance(failed, ClientError)
        assert failed.code is grpc.StatusCode.INTERNAL
        require_typed(last)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (None, grpc.StatusCode.UNKNOWN),
        ("NO_SUCH_STATUS", grpc.StatusCode.UNKNOWN),
        ("NOT_FOUND", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_a_failure_in_a_stream_may_have_a_message_alone(kind: Kind, status: str | None, code: grpc.StatusCode) -> None:
    failure = pb.ModelStreamInferResponse(error_message="no such model")
    if status is not None:
        failure.infer_response.parameters["status"].string_param = status
    with serving(failure, TYPED) as address, kind.open(address) as client:
        failed, last = client.infer_stream("foreign", [INPUTS])
    assert isinstance(failed, ClientError)
    assert (failed.code, str(failed)) == (code, "no such model")
    require_typed(last)


def test_a_wait_goes_on_where_a_watch_fails_and_says_why_at_its_end(kind: Kind) -> None:
    with serving() as address, kind.open(address) as client, pytest.raises(ClientError) as caught:
        client.wait_until_ready(0.5)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert str(caught.value) == f"the server at {address} was not ready within 0.5 s: there is no replica"
