"""A server in a process of its own, with models whose answers are larger than their requests."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from tests.kit import live, memory, onnx_models
from tests.kit.command import Serving, serving
from tests.kit.waiting import TIMEOUT, until
from tests.serving.server.fuzz.conftest import Target

REFLECTION = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"
FAILED = 'event="request failed"'
TIMES = 100
"""How much larger an answer of ``tiled`` is than its request."""


class Attacked(Target):
    """The server, its log and its metrics."""

    def __init__(self, server: Serving, transport: str) -> None:
        super().__init__(server, transport)
        self.inference: Any = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def call(self, method: str, message: bytes, metadata: Sequence[tuple[str, str]] = ()) -> bytes:
        """Raises grpc.RpcError where it is refused."""
        call: Any = self._channel.unary_unary(method)
        answer: bytes = call(message, timeout=TIMEOUT, metadata=metadata)
        return answer

    def failures(self) -> list[str]:
        """The log's lines on calls that failed by no fault of their callers."""
        return [line for line in self._server.log if FAILED in line]

    def most_memory(self) -> int:
        """The most bytes that the process has ever held."""
        return memory.most_held(self._server.process.pid)

    def metrics(self) -> str:
        return self._server.metrics()

    def answered(self, model: str) -> int:
        """How many requests for a model have been computed, whether or not their answers were taken."""
        (count,) = re.findall(rf'nv_inference_request_success{{model="{model}",version="1"}} (\S+)', self.metrics())
        return round(float(count))

    def require_others(self) -> None:
        """It answers calls that native passes on to grpcio, also on a new connection."""
        own = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.address, own) as channel:
            others = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            for inference in (self.inference, others):
                assert inference.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT, wait_for_ready=True).ready

    def require_reflection(self) -> None:
        """It lists its services, as grpcurl asks for them, once no more streams come that would end this one."""
        call: Any = self._channel.stream_stream(REFLECTION.format("v1"))
        sent = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()

        def lists_services() -> bool:
            stream = call(iter([sent]), timeout=TIMEOUT)
            with suppress(grpc.RpcError):
                return any(b"inference.GRPCInferenceService" in answer for answer in stream)
            assert "newer ones" in stream.details()
            return False

        until(lists_services, TIMEOUT)

    def wait_for_streams(self, *, refused: bool) -> None:
        """Wait until a new stream is refused, or is served."""
        sent = live.request("tiled", x=live.number(1))

        def is_refused() -> bool:
            stream = self.inference.ModelStreamInfer(iter([sent]), timeout=TIMEOUT)
            with suppress(grpc.RpcError):
                list(stream)
            assert stream.code() in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
            return stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

        until(lambda: is_refused() is refused, TIMEOUT)


@pytest.fixture(scope="package", params=["native", "grpc"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    models = onnx_models.publish_all(tmp_path_factory.mktemp("models"), "two_inputs", "filled")
    onnx_models.publish(models, "tiled", onnx_models.tiled(TIMES))
    control = ("--model-control", "explicit", "--load-model", "*")  # else names of models to load are not looked up
    with serving("--models", str(models), "--port", "0", "--transport", request.param, *control) as server:
        target = Attacked(server, request.param)
        yield target
        target.close()


@pytest.fixture(autouse=True)
def _answers_afterwards(target: Attacked) -> Iterator[None]:
    yield
    target.require_answer()
