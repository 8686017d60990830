"""A server in another process, for tests that send damaged or hostile requests."""

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from hangtag.protos import inference_pb2 as pb
from studies.stubs import InferenceStub
from tests.kit import live, memory
from tests.kit.command import Serving
from tests.kit.waiting import TIMEOUT, until

MORE_MEMORY = 300 << 20
"""The bytes by which the server's memory may grow. Decoding a large picture needs most of this memory."""
MORE_LOG = 50
"""The number of lines that the server may log."""

REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,  # the server does not load models on request
)
INFER = "/inference.GRPCInferenceService/ModelInfer"
REFLECTION = "/grpc.reflection.{}.ServerReflection/ServerReflectionInfo"
FAILED = 'event="request failed"'
TIMES = 100
"""The factor by which an answer of ``tiled`` is larger than its request."""
PRINTED_BY_GRPCIO = re.compile(
    r"Traceback \(most recent call last\):$|  File \"src/python/grpcio/|grpc\._cython\.cygrpc\.ExecuteBatchError: |$"
)
"""grpcio prints this traceback if the caller has left before an error is sent (docs/explanation/threat-model.md)."""


class Target:
    """The server's process, and a channel that sends bytes."""

    def __init__(self, server: Serving, transport: str) -> None:
        self._server = server
        self.transport = transport
        self.address = server.address
        self.http_address = server.http_address
        self._channel = grpc.insecure_channel(self.address)
        self._memory, self._lines = self.memory(), len(self.log())

    def log(self) -> list[str]:
        """The lines of the server's log, without grpcio's tracebacks."""
        return [line for line in self._server.log if not PRINTED_BY_GRPCIO.match(line.rstrip("\n"))]

    def memory(self) -> int:
        """The resident bytes of the server and of its Envoy, if there is one."""
        return memory.held_with_children(self._server.process.pid)

    def send(self, method: str, data: bytes) -> bytes | None:
        """Call a method, and return the answer, or None if the request is invalid. Other errors fail the test."""
        call: Any = self._channel.unary_unary(method)
        try:
            answer: bytes = call(data, timeout=TIMEOUT)
        except grpc.RpcError as error:
            if error.code() not in REFUSALS or not error.details():
                pytest.fail(f"{method} ended with {error.code()}: {error.details()}")
            return None
        return answer

    def wait_for_memory(self, most: int) -> None:
        """Wait until the server, which frees memory after a connection has ended, holds at most this many bytes."""
        until(lambda: self.memory() <= most)

    def require_answer(self) -> None:
        """Require that the server answers a valid request."""
        sent = live.request("two_inputs", a=np.ones((1, 3), np.float32), b=np.ones((1, 3), np.int64))
        answer = self.send(INFER, sent.SerializeToString())
        assert answer is not None
        assert live.outputs(pb.ModelInferResponse.FromString(answer))["sum"].tolist() == [[2, 2, 2]]

    def require_health(self) -> None:
        """Require that the server runs and answers correctly, and that memory and log have grown little."""
        self.require_answer()
        assert self._server.process.poll() is None
        assert self.memory() - self._memory < MORE_MEMORY
        log = self.log()
        assert len(log) - self._lines < MORE_LOG, log[-MORE_LOG:]
        assert not any('  File "' in line for line in log)

    def close(self) -> None:
        self._channel.close()


class Attacked(Target):
    """A server, with its log and its metrics."""

    def __init__(self, server: Serving, transport: str) -> None:
        super().__init__(server, transport)
        self.inference: Any = InferenceStub(self._channel)

    def call(self, method: str, message: bytes, metadata: Sequence[tuple[str, str]] = ()) -> bytes:
        """Send a request. Raises grpc.RpcError if the server refuses it."""
        call: Any = self._channel.unary_unary(method)
        answer: bytes = call(message, timeout=TIMEOUT, metadata=metadata)
        return answer

    def failures(self) -> list[str]:
        """The log's lines about calls that failed because of a server error."""
        return [line for line in self._server.log if FAILED in line]

    def most_memory(self) -> int:
        """The server's peak resident memory, in bytes."""
        return memory.most_held(self._server.process.pid)

    def metrics(self) -> str:
        return self._server.metrics()

    def answered(self, model: str) -> int:
        """The number of computed requests of a model, even if no client read the answer."""
        (count,) = re.findall(rf'nv_inference_request_success{{model="{model}",version="1"}} (\S+)', self.metrics())
        return round(float(count))

    def require_others(self) -> None:
        """Require that the server answers ServerReady on the existing connection and on a new one."""
        own = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.address, own) as channel:
            others = InferenceStub(channel)
            for inference in (self.inference, others):
                assert inference.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT, wait_for_ready=True).ready

    def require_reflection(self) -> None:
        """Require that gRPC reflection lists services. Repeat a call that the server ends because of newer calls."""
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
        """Wait until the server refuses a new stream, or serves one if ``refused`` is False."""
        sent = live.request("tiled", x=live.number(1))

        def is_refused() -> bool:
            stream = self.inference.ModelStreamInfer(iter([sent]), timeout=TIMEOUT)
            with suppress(grpc.RpcError):
                list(stream)
            assert stream.code() in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
            return stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

        until(lambda: is_refused() is refused, TIMEOUT)
