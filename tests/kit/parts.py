"""Test doubles for a clock, a caller and ONNX Runtime, and short ways to build queues, models and engines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.request import InferenceResult, OnComplete, QueuedRequest
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import ServerError
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.signature import Signature, TensorSpec

Outputs = dict[str, npt.NDArray[Any]]


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Caller:
    """Keeps each outcome that a request's callback gets."""

    def __init__(self) -> None:
        self.outcomes: list[InferenceResult | ServerError] = []

    def __call__(self, outcome: InferenceResult | ServerError) -> None:
        self.outcomes.append(outcome)

    @property
    def outcome(self) -> InferenceResult | ServerError:
        (only,) = self.outcomes
        return only

    @property
    def answer(self) -> InferenceResult:
        assert isinstance(self.outcome, InferenceResult), self.outcome
        return self.outcome


class FakeRuntime(Runtime):
    """Doubles x, or runs ``compute`` of a test; records each batch."""

    def __init__(self, *, batched: bool = True) -> None:
        shape = (None, 2) if batched else (1, 2)
        self.provider = "CPUExecutionProvider"
        self.requested_provider = "cpu"
        self.file_bytes = 1
        self.threads = 1
        self.signature = Signature((TensorSpec("x", "FP32", shape),), (TensorSpec("y", "FP32", shape),))
        self.batches: list[npt.NDArray[Any]] = []
        self.alone: list[bool] = []
        self.compute: Callable[[npt.NDArray[Any]], Outputs] = lambda x: {"y": x * 2}

    def run(self, inputs: Any, *, alone: bool = False) -> Outputs:
        self.alone.append(alone)
        self.batches.append(inputs["x"])
        return self.compute(inputs["x"])


def new_request(
    samples: int = 1, on_complete: OnComplete | None = None, *, batch_key: str = "", deadline: float | None = None
) -> QueuedRequest:
    """A request without inputs, for the batcher alone."""
    return QueuedRequest({}, samples, on_complete or Caller(), batch_key=batch_key, deadline=deadline)


def batcher(
    clock: Clock, *, size: int = 4, queue: int = 100, delay: float = 0.0, instances: int = 1_000_000
) -> Batcher:
    """By default there are so many instances that one is always free."""
    return Batcher(max_batch_size=size, max_queue_size=queue, instances=instances, max_queue_delay=delay, clock=clock)


def put(queue: Batcher, *requests: QueuedRequest) -> list[QueuedRequest]:
    for one in requests:
        queue.put(one)
    return list(requests)


def served(runtime: Runtime, config: ServerConfig | None = None, *, version: int = 3) -> ServedModel:
    """A model that computes with this runtime; not started."""
    return ServedModel(ModelFile("double", version, Path("unused")), runtime, config or ServerConfig())


def rows(*values: float) -> dict[str, npt.NDArray[np.float32]]:
    """Inputs with one sample per value."""
    return {"x": np.array([[value, value] for value in values], np.float32)}
