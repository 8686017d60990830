"""A factory of runtimes with a gate before each, at which a test holds back, counts and fails batches."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.session import Runtime
from tests.kit.waiting import TIMEOUT


class Gate:
    """What a test sees of the batches of one model from a certain moment on, and whether they may be computed."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []
        """How many samples each batch had that reached the runtime, in this order."""
        self.begun: list[float] = []
        """When each of them reached it, on the monotonic clock."""
        self.delay = 0.0
        """How many seconds more each batch takes once the gate is open."""
        self._may_pass = threading.Event()
        self._reached = threading.Semaphore(0)

    def open(self) -> None:
        """Let the batches be computed that wait here, and all later ones."""
        self._may_pass.set()

    def wait_until_computing(self) -> None:
        """Wait until one more batch has reached the runtime."""
        assert self._reached.acquire(timeout=TIMEOUT)

    def pass_through(self, samples: int) -> None:
        """Count a batch, and return when it may be computed."""
        self.batch_sizes.append(samples)
        self.begun.append(time.monotonic())
        self._reached.release()
        assert self._may_pass.wait(TIMEOUT)
        time.sleep(self.delay)


class HeldLoad:
    """The next load of one model, which waits until a test lets it go on."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._may_go_on = threading.Event()

    def wait_until_begun(self) -> None:
        assert self._begun.wait(TIMEOUT)

    def go_on(self) -> None:
        self._may_go_on.set()

    def begin(self) -> None:
        self._begun.set()
        assert self._may_go_on.wait(TIMEOUT)


class _GatedRuntime(Runtime):
    gate: Gate | None = None
    failure: InferenceError | None = None

    def run(self, inputs: Any, *, alone: bool = False) -> Any:
        failure = self.failure  # of now: a batch that waits at the gate is computed as when it came
        if self.gate is not None:
            self.gate.pass_through(len(next(iter(inputs.values()))))
        if failure is not None:
            raise failure
        return super().run(inputs, alone=alone)


class Gates:
    """The factory: ``Server(config, runtimes=Gates())``. Batches are computed as without it, until a test says so.

    Example:
        with gates.closed("gather") as gate:
            calls = [...]
            gate.wait_until_computing()
            gate.open()
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: WeakSet[_GatedRuntime] = WeakSet()
        self._held_loads: dict[str, HeldLoad] = {}

    def __call__(self, path: Path, **options: Any) -> Runtime:
        """Load a file, with the arguments of Runtime."""
        held = self._held_loads.get(_model(path))
        if held is not None:
            held.begin()
        runtime = _GatedRuntime(path, **options)
        with self._lock:
            self._loaded.add(runtime)
        return runtime

    @contextmanager
    def closed(self, model: str) -> Iterator[Gate]:
        """Let the batches of a model's loaded versions wait until the gate is opened, at the block's end at the latest.
        Versions that are loaded later have no gate."""
        gate = self._attach(model)
        try:
            yield gate
        finally:
            gate.open()

    def counted(self, model: str) -> Gate:
        """A gate that is open: it counts the batches of a model's loaded versions."""
        gate = self._attach(model)
        gate.open()
        return gate

    def loaded(self, model: str) -> int:
        """How many loaded versions of a model are in memory, those included that serve no more."""
        with self._lock:
            return sum(_model(runtime.path) == model for runtime in self._loaded)

    @contextmanager
    def failing(self, model: str) -> Iterator[None]:
        """Let the batches of a model's loaded versions fail that come inside the block, by no caller's fault."""
        for runtime in self._runtimes(model):
            runtime.failure = InferenceError("ONNX Runtime failed: on purpose")
        try:
            yield
        finally:
            for runtime in self._runtimes(model):
                runtime.failure = None

    @contextmanager
    def held_load(self, model: str) -> Iterator[HeldLoad]:
        """Hold back the loads of a model that begin inside the block until they may go on, at its end at the latest."""
        held = self._held_loads[model] = HeldLoad()
        try:
            yield held
        finally:
            del self._held_loads[model]
            held.go_on()

    def _attach(self, model: str) -> Gate:
        gate = Gate()
        for runtime in self._runtimes(model):
            runtime.gate = gate
        return gate

    def _runtimes(self, model: str) -> list[_GatedRuntime]:
        with self._lock:
            loaded = [runtime for runtime in self._loaded if _model(runtime.path) == model]
        assert loaded, f"{model} is not loaded"
        return loaded


def _model(path: Path) -> str:
    """The name of the model whose file this is, <models>/<name>/<version>/model.onnx."""
    return path.parents[1].name
