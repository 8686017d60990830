"""Messages over --max-message-mib: refused alike on every transport, and their memory is given back."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.protos import classifier_pb2_grpc, inference_pb2_grpc
from hangtag.protos import inference_pb2 as pb
from tests.kit import onnx_models
from tests.kit.command import serving
from tests.kit.live import LiveServer, failure, index, number, outputs, request
from tests.kit.over_http import EVERY_TRANSPORT, live_server
from tests.kit.waiting import TIMEOUT, until

pytestmark = pytest.mark.slow

MIB = 1 << 20
HUGE = 100 * MIB
MORE_MEMORY = 48 * MIB
"""Bytes that a server may hold after it has refused huge messages, beyond what it held before."""
ANY_SIZE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
MODEL_INFER, CLASSIFY = "/inference.GRPCInferenceService/ModelInfer", "/hangtag.v1.Classifier/Classify"


@pytest.fixture
def small(tmp_path: Path, transport: str) -> Iterator[LiveServer]:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    onnx_models.publish(tmp_path, "repeated", onnx_models.tiled(300_000))  # a megabyte and more for 4 bytes
    with live_server(transport, tmp_path, max_message_mib=1, max_batch_size=2) as live:
        yield live


def send(channel: grpc.Channel, method: str, message: bytes) -> tuple[grpc.StatusCode, str]:
    call: Any = channel.unary_unary(method)
    return failure(lambda: call(message, timeout=2 * TIMEOUT))


@pytest.mark.parametrize("method", [MODEL_INFER, CLASSIFY])
@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_request_over_the_limit_is_refused(small: LiveServer, method: str, compression: grpc.Compression) -> None:
    with grpc.insecure_channel(small.server.address, ANY_SIZE, compression) as channel:
        assert send(channel, method, bytes(MIB + 1)) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"SERVER: Received message larger than max ({MIB + 1} vs. {MIB})",
        )
        code, _ = send(channel, method, bytes(MIB))
        assert code is grpc.StatusCode.INVALID_ARGUMENT  # it was read, and is no message
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert outputs(stub.ModelInfer(request("gather", index=index(1)), timeout=TIMEOUT))["value"].tolist() == [10]


@EVERY_TRANSPORT
def test_a_message_over_the_limit_is_refused_and_the_next_one_answered(small: LiveServer) -> None:
    """A response, and a request."""
    code, message = failure(lambda: small.infer(request("repeated", x=number(1))))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert message.startswith("SERVER: Sent message larger than max (1200")
    assert message.endswith(f" vs. {MIB})")
    code, _ = failure(lambda: small.infer(request("gather", index=np.ones(MIB // 8, np.int64))))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert small.infer(request("gather", index=index(1)))["value"].tolist() == [10]


def test_a_response_over_the_limit_fails_its_request_of_a_stream_alone(small: LiveServer) -> None:
    sent = [request("repeated", x=number(1)), request("gather", index=index(1))]
    refused, answered = small.inference.ModelStreamInfer(iter(sent), timeout=TIMEOUT)
    assert refused.error_message == f"SERVER: Sent message larger than max (1200000 vs. {MIB})"
    assert refused.infer_response.parameters["status"].string_param == "RESOURCE_EXHAUSTED"
    assert outputs(answered.infer_response)["value"].tolist() == [10]
    assert small.statistics("repeated").inference_stats.fail.count == 1


def test_a_request_over_the_limit_of_a_stream_or_another_method_is_refused(small: LiveServer) -> None:
    """On native these pass through to the gRPC server behind it."""
    huge = pb.ModelInferRequest(model_name="gather", raw_input_contents=[bytes(2 * MIB)])
    with grpc.insecure_channel(small.server.address, ANY_SIZE) as channel:
        inference = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        classifier = classifier_pb2_grpc.ClassifierStub(channel)
        for call in (
            lambda: list(inference.ModelStreamInfer(iter([huge]), timeout=TIMEOUT)),
            lambda: inference.ServerLive(pb.ServerLiveRequest.FromString(huge.SerializeToString()), timeout=TIMEOUT),
            lambda: list(classifier.ClassifyStream(iter([huge]), timeout=TIMEOUT)),
        ):
            code, message = failure(call)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in message


def test_the_memory_of_huge_messages_is_given_back(tmp_path: Path, transport: str) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    with serving("--models", str(tmp_path), "--port", "0", "--transport", transport) as server:
        address = server.wait_until_ready()
        with grpc.insecure_channel(address, ANY_SIZE) as channel:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            for _ in range(50):
                stub.ModelInfer(request("gather", index=index(1)), timeout=TIMEOUT)
            before = memory(server.process.pid)
            code, message = send(channel, MODEL_INFER, bytes(HUGE))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert message == f"SERVER: Received message larger than max ({HUGE} vs. {16 * MIB})"
            until(lambda: memory(server.process.pid) - before <= MORE_MEMORY)
            answer = stub.ModelInfer(request("gather", index=index(1)), timeout=TIMEOUT)
            assert outputs(answer)["value"].tolist() == [10]


def memory(pid: int) -> int:
    """A process's resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
