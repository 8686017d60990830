"""The server that is fuzzed: a process of its own, which must live, and neither grow nor fill its log."""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from tests.kit import live, memory, onnx_models, shipped
from tests.kit.command import Serving, serving
from tests.kit.waiting import TIMEOUT, until
from tests.serving.server.fuzz import requests

MORE_MEMORY = 300 << 20
"""Bytes that the process may take beyond what it had when it was ready; unpacking a large picture takes the most."""
MORE_LOG = 50
"""Lines."""

MANY_FILES = 8192
"""Files that this process and the server may open: a connection takes one in each."""

REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,  # models are not loaded by call here
)
INFER = "/inference.GRPCInferenceService/ModelInfer"


PRINTED_BY_GRPCIO = re.compile(
    r"Traceback \(most recent call last\):$|  File \"src/python/grpcio/|grpc\._cython\.cygrpc\.ExecuteBatchError: |$"
)
"""It prints a traceback where it cannot send an error because the caller has left: docs/threat-model.md."""


class Target:
    """The server's process, and a channel that takes bytes."""

    def __init__(self, server: Serving, transport: str) -> None:
        self._server = server
        self.transport = transport
        self.address = server.wait_until_ready()
        self.http_address = server.http_address
        self._channel = grpc.insecure_channel(self.address)
        self._memory, self._lines = self.memory(), len(self.log())

    def log(self) -> list[str]:
        """What the server has written, without what grpcio prints."""
        return [line for line in self._server.log if not PRINTED_BY_GRPCIO.match(line.rstrip("\n"))]

    def memory(self) -> int:
        """Resident, in bytes."""
        return memory.held(self._server.process.pid)

    def send(self, method: str, data: bytes) -> bytes | None:
        """The answer; None where it was refused for a reason that is the caller's. Any other end is a failure."""
        call: Any = self._channel.unary_unary(method)
        try:
            answer: bytes = call(data, timeout=TIMEOUT)
        except grpc.RpcError as error:
            if error.code() not in REFUSALS or not error.details():
                pytest.fail(f"{method} ended with {error.code()}: {error.details()}")
            return None
        return answer

    def wait_for_memory(self, most: int) -> None:
        """Wait until it holds no more than this many bytes: what a connection took is freed some time after its end."""
        until(lambda: self.memory() <= most)

    def require_answer(self) -> None:
        """It answers a good request."""
        sent = live.request("two_inputs", a=np.ones((1, 3), np.float32), b=np.ones((1, 3), np.int64))
        answer = self.send(INFER, sent.SerializeToString())
        assert answer is not None
        assert live.outputs(pb.ModelInferResponse.FromString(answer))["sum"].tolist() == [[2, 2, 2]]

    def require_health(self) -> None:
        """It lives, answers as it should, and is as large as before."""
        self.require_answer()
        assert self._server.process.poll() is None
        assert self.memory() - self._memory < MORE_MEMORY
        log = self.log()
        assert len(log) - self._lines < MORE_LOG, log[-MORE_LOG:]
        assert not any('  File "' in line for line in log)

    def close(self) -> None:
        self._channel.close()


@pytest.fixture(scope="module", params=["native", "grpc"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with serving_target(tmp_path_factory.mktemp("models"), request.param) as target:
        yield target


@contextmanager
def serving_target(models: Path, transport: str) -> Iterator[Target]:
    """Start the server with one model of every kind in this folder."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(MANY_FILES, hard) if hard != resource.RLIM_INFINITY else MANY_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, many), hard))  # the server inherits it
    for name in requests.MODELS:
        if name == "lstm":
            (models / name).symlink_to(shipped.MODELS / name)
        else:
            onnx_models.publish(models, name, getattr(onnx_models, name)())
    with serving("--models", str(models), "--port", "0", "--max-batch-size", "16", "--transport", transport) as server:
        target = Target(server, transport)
        yield target
        target.close()


@pytest.fixture(autouse=True)
def _healthy_afterwards(target: Target) -> Iterator[None]:
    yield
    target.require_health()
