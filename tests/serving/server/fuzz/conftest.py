"""The server that is fuzzed: a process of its own, which must live, and neither grow nor fill its log."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from tests import onnx_models, shipped
from tests.serving.command import TIMEOUT, Serving, serving
from tests.serving.server.fuzz import requests
from tests.serving.server.transport.live import outputs, request

MORE_MEMORY = 300 << 20
"""Bytes that the process may take beyond what it had when it was ready; unpacking a large picture takes the most."""
MORE_LOG = 50
"""Lines."""

REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,  # models are not loaded by call here
)
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Target:
    """The server's process, and a channel that takes bytes."""

    def __init__(self, server: Serving) -> None:
        self._server = server
        self.address = server.wait_until_ready()
        self._channel = grpc.insecure_channel(self.address)
        self._memory, self._lines = self.memory(), len(server.log)

    def memory(self) -> int:
        """Resident, in bytes."""
        pages = Path(f"/proc/{self._server.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

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

    def require_health(self) -> None:
        """It lives, answers as it should, and is as large as before."""
        sent = request("two_inputs", a=np.ones((1, 3), np.float32), b=np.ones((1, 3), np.int64))
        answer = self.send(INFER, sent.SerializeToString())
        assert answer is not None
        assert outputs(pb.ModelInferResponse.FromString(answer))["sum"].tolist() == [[2, 2, 2]]
        assert self._server.process.poll() is None
        assert self.memory() - self._memory < MORE_MEMORY
        assert len(self._server.log) - self._lines < MORE_LOG, self._server.log[-MORE_LOG:]
        assert not any("Traceback" in line for line in self._server.log)

    def close(self) -> None:
        self._channel.close()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    models = tmp_path_factory.mktemp("models")
    for name in requests.MODELS:
        if name == "lstm":
            (models / name).symlink_to(shipped.MODELS / name)
        else:
            onnx_models.publish(models, name, getattr(onnx_models, name)())
    with serving("--models", str(models), "--port", "0", "--max-batch-size", "16") as server:
        target = Target(server)
        yield target
        target.close()


@pytest.fixture(autouse=True)
def _healthy_afterwards(target: Target) -> Iterator[None]:
    yield
    target.require_health()
