"""Test doubles for a clock, a call and ONNX Runtime, and short ways to build queues, models and engines."""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.call import Call, InferenceResult, Tensors
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.signature import Signature, TensorSpec

Outputs = dict[str, npt.NDArray[Any]]


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class KeptCall(Call):
    """A call that keeps each outcome that it gets."""

    def __init__(
        self,
        inputs: Tensors | None = None,
        samples: int = 1,
        *,
        batch_key: Hashable = None,
        deadline: float | None = None,
    ) -> None:
        self.deadline = deadline
        self.inputs = inputs or {}
        self.samples = samples
        self.batch_key = batch_key
        self.outcomes: list[InferenceResult | Exception] = []

    def answer(self, result: InferenceResult) -> None:
        self.outcomes.append(result)

    def fail(self, error: Exception) -> None:
        self.outcomes.append(error)

    @property
    def outcome(self) -> InferenceResult | Exception:
        (only,) = self.outcomes
        return only


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

    def close(self) -> None:
        """There is no session."""

    def run(self, inputs: Any, *, alone: bool = False) -> Outputs:
        self.alone.append(alone)
        self.batches.append(inputs["x"])
        return self.compute(inputs["x"])


def new_call(samples: int = 1, *, batch_key: str = "", deadline: float | None = None) -> KeptCall:
    """A call without inputs, for the batcher alone."""
    return KeptCall({}, samples, batch_key=batch_key, deadline=deadline)


def batcher(
    clock: Clock, *, size: int = 4, queue: int = 100, delay: float = 0.0, instances: int = 1_000_000
) -> Batcher:
    """By default there are so many instances that one is always free."""
    return Batcher(max_batch_size=size, max_queue_size=queue, instances=instances, max_queue_delay=delay, clock=clock)


def put(queue: Batcher, *calls: KeptCall) -> list[KeptCall]:
    for one in calls:
        queue.put(one)
    return list(calls)


def served(runtime: Runtime, config: ServerConfig | None = None, *, version: int = 3) -> ServedModel:
    """A model that computes with this runtime; not started."""
    return ServedModel(ModelFile("double", version, Path("unused")), runtime, config or ServerConfig())


def rows(*values: float) -> dict[str, npt.NDArray[np.float32]]:
    """Inputs with one sample per value."""
    return {"x": np.array([[value, value] for value in values], np.float32)}
