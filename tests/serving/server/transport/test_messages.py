"""Messages above --max-message-mib, calls whose message does not arrive, and invalid deadlines.

A test in tests/serving/server/hostile shows that calls without a message leave room for other calls."""

import os
import re
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import numpy as np
import pytest

from hangtag.protos import classifier_pb2
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.config.limits import Limits
from studies.stubs import ClassifierStub, InferenceStub
from tests.kit import memory, onnx_models
from tests.kit.command import serving
from tests.kit.live import LiveServer, failure, index, number, outputs, request
from tests.kit.over_http import ENVOY, OVER_GRPC, live_server, options_of
from tests.kit.waiting import TIMEOUT, until

MIB = 1 << 20
HUGE = 100 * MIB
MORE_MEMORY = 48 * MIB
"""The number of bytes by which a server may grow while it refuses huge messages."""
ANY_SIZE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
MODEL_INFER, CLASSIFY = "/inference.GRPCInferenceService/ModelInfer", "/hangtag.v1.Classifier/Classify"
LIVE = "/inference.GRPCInferenceService/ServerLive"


@pytest.fixture
def small(tmp_path: Path, transport: str) -> Iterator[LiveServer]:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    onnx_models.publish(tmp_path, "repeated", onnx_models.tiled(300_000))  # the answer to a 4-byte input exceeds 1 MB
    with live_server(transport, tmp_path, max_message_mib=1, max_batch_size=2) as live:
        yield live


def send(channel: grpc.Channel, method: str, message: bytes) -> tuple[grpc.StatusCode, str]:
    call: Any = channel.unary_unary(method)
    return failure(lambda: call(message, timeout=2 * TIMEOUT))


@OVER_GRPC
@pytest.mark.parametrize("method", [MODEL_INFER, CLASSIFY])
@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_request_over_the_limit_is_refused(small: LiveServer, method: str, compression: grpc.Compression) -> None:
    with grpc.insecure_channel(small.server.address, ANY_SIZE, compression) as channel:
        code, message = send(channel, method, bytes(MIB + 1))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert message.startswith("SERVER: Received message larger than max (10485")
        code, _ = send(channel, method, bytes(MIB))
        assert code is grpc.StatusCode.INVALID_ARGUMENT  # the server has read the bytes, which are no valid message
        stub = InferenceStub(channel)
        assert outputs(stub.ModelInfer(request("gather", index=index(1)), timeout=TIMEOUT))["value"].tolist() == [10]


def test_a_message_over_the_limit_is_refused_and_the_next_one_answered(small: LiveServer) -> None:
    """First a response is too large, then a request."""
    code, message = failure(lambda: small.infer(request("repeated", x=number(1))))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert message.startswith("SERVER: Sent message larger than max (1200")
    assert message.endswith(f" vs. {MIB})")
    code, _ = failure(lambda: small.infer(request("gather", index=np.ones(MIB // 8, np.int64))))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert small.infer(request("gather", index=index(1)))["value"].tolist() == [10]


@OVER_GRPC
def test_a_response_over_the_limit_fails_its_request_of_a_stream_alone(small: LiveServer) -> None:
    sent = [request("repeated", x=number(1)), request("gather", index=index(1))]
    refused, answered = small.inference.ModelStreamInfer(iter(sent), timeout=TIMEOUT)
    assert refused.error_message == f"SERVER: Sent message larger than max (1200000 vs. {MIB})"
    assert refused.infer_response.parameters["status"].string_param == "RESOURCE_EXHAUSTED"
    assert outputs(answered.infer_response)["value"].tolist() == [10]
    assert small.statistics("repeated").inference_stats.fail.count == 1


@OVER_GRPC
def test_a_request_over_the_limit_of_a_stream_or_another_method_is_refused(small: LiveServer) -> None:
    """The native transport passes these calls on to the gRPC server behind it."""
    huge = pb.ModelInferRequest(model_name="gather", raw_input_contents=[bytes(2 * MIB)])
    with grpc.insecure_channel(small.server.address, ANY_SIZE) as channel:
        inference = InferenceStub(channel)
        classifier = ClassifierStub(channel)
        for call in (
            lambda: list(inference.ModelStreamInfer(iter([huge]), timeout=TIMEOUT)),
            lambda: inference.ServerLive(pb.ServerLiveRequest.FromString(huge.SerializeToString()), timeout=TIMEOUT),
            lambda: list(classifier.ClassifyStream(iter([huge]), timeout=TIMEOUT)),
        ):
            code, message = failure(call)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in message


@OVER_GRPC
def test_the_memory_of_huge_messages_is_given_back(tmp_path: Path, transport: str) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    with serving("--models", str(tmp_path), "--port", "0", *options_of(transport)) as server:
        address = server.address
        with grpc.insecure_channel(address, ANY_SIZE) as channel:
            stub = InferenceStub(channel)
            for _ in range(50):
                stub.ModelInfer(request("gather", index=index(1)), timeout=TIMEOUT)
            before = memory.held(server.process.pid)
            code, message = send(channel, MODEL_INFER, bytes(HUGE))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert message.startswith("SERVER: Received message larger than max (")
            until(lambda: memory.held(server.process.pid) - before <= MORE_MEMORY)
            answer = stub.ModelInfer(request("gather", index=index(1)), timeout=TIMEOUT)
            assert outputs(answer)["value"].tolist() == [10]


@pytest.fixture
def impatient(few: Path) -> Iterator[LiveServer]:
    with live_server(ENVOY, few, limits=Limits(message_seconds=0.5)) as live:
        yield live


@pytest.mark.parametrize("method", [MODEL_INFER, LIVE, "/grpc.health.v1.Health/Watch"])
def test_a_call_ends_whose_message_does_not_come(impatient: LiveServer, method: str) -> None:
    released = threading.Event()
    call: Any = impatient.channel.stream_stream(method)
    code, details = failure(lambda: list(call(iter(released.wait, True), timeout=TIMEOUT)))
    assert (code, "did not arrive in time" in details) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
    released.set()
    assert impatient.infer(request("gather", index=index(1)))["value"].tolist() == [10]


def test_a_call_without_a_message_is_the_callers_error(few: Path) -> None:
    with live_server("grpc", few) as live:
        for method in (MODEL_INFER, LIVE):
            call: Any = live.channel.stream_unary(method)
            code, details = failure(lambda call=call: call(iter(()), timeout=TIMEOUT))  # type: ignore[misc]
            assert (code, "no message" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


RAW = classifier_pb2.RawImage(height=28, width=28, pixels=bytes(784))
MESSAGES = {
    MODEL_INFER: request("gather", index=index(1)).SerializeToString(),
    CLASSIFY: classifier_pb2.ClassifyRequest(model_name="classifier", raw=RAW).SerializeToString(),
    LIVE: pb.ServerLiveRequest().SerializeToString(),
}
BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


@pytest.fixture(scope="session")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each method, a file with an encoded request."""
    folder = tmp_path_factory.mktemp("bodies")
    bodies = {}
    for method, message in MESSAGES.items():
        bodies[method] = folder / method.rpartition("/")[2]
        bodies[method].write_bytes(b"\x00" + struct.pack(">I", len(message)) + message)
    return bodies


def ask(live: LiveServer, bodies: dict[str, Path], method: str, timeout: str) -> tuple[grpc.StatusCode, str]:
    """Make a call with this ``grpc-timeout``, and return its status and its message."""
    header = f"grpc-timeout: {timeout}" if timeout else "grpc-timeout;"  # curl's form of a header without a value
    headers = [f"-H{each}" for each in ("content-type: application/grpc", "te: trailers", header)]
    url = f"http://{live.server.address}{method}"
    command = ["curl", "-sv", "--http2-prior-knowledge", *headers, "--data-binary", f"@{bodies[method]}", url]
    ended = subprocess.run([*command, "--output", os.devnull], capture_output=True, check=True, timeout=TIMEOUT)
    received = dict(re.findall(r"< (grpc-\S+): (.*)\r", ended.stderr.decode("latin-1")))
    return BY_NUMBER[int(received["grpc-status"])], unquote(received.get("grpc-message", ""))


@OVER_GRPC
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("method", MESSAGES)
def test_a_deadline_in_a_header_is_taken_and_what_is_none_is_refused(
    live: LiveServer, bodies: dict[str, Path], method: str
) -> None:
    by_native = live.server.transport == "native" and method != LIVE  # gRPC's core answers all other calls
    for timeout in ("10S", "00000001M", "99999999H"):
        assert ask(live, bodies, method, timeout)[0] is grpc.StatusCode.OK
    before = live.statistics("gather").inference_count
    too_long = ["000000010S"] * by_native  # gRPC's core accepts more digits than the specification allows
    for timeout in ("", "soon", "1", "S", "-1S", "1.5S", "1s", "1Sm", "1 000m x", "1S.", *too_long):
        code, message = ask(live, bodies, method, timeout)
        assert code is (grpc.StatusCode.INVALID_ARGUMENT if by_native else grpc.StatusCode.INTERNAL)
        assert "grpc-timeout" in message
        if by_native:
            assert (
                f"must be 1 to 8 digits and a unit, which is one of H, M, S, m, u and n, not '{timeout[:1]}" in message
            )
    assert live.statistics("gather").inference_count == before
