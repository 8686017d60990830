"""Runtimes with gates. At a gate, a test counts batches, holds them back, makes them fail, or computes them itself."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.session import Runtime
from tests.kit.waiting import TIMEOUT, pass_time

Array = npt.NDArray[np.float32]
Script = Callable[[Array], Array]
"""Computes y [batch, 2] from x [batch, 2]."""


class Stop:
    """A point at which threads wait until a test releases them."""

    def __init__(self) -> None:
        self._released = threading.Event()
        self._reached = threading.Semaphore(0)

    def stop(self) -> None:
        """Wait until a test releases this point."""
        self._reached.release()
        assert self._released.wait(TIMEOUT)

    def wait(self) -> None:
        """Wait until one more thread has reached this point."""
        assert self._reached.acquire(timeout=TIMEOUT)

    def release(self) -> None:
        """Release the threads that wait here, and let all later threads pass."""
        self._released.set()


class Held(Stop):
    """A script that delays each batch that contains a certain value, and answers with the batch's input."""

    def __init__(self, value: float = 9) -> None:
        super().__init__()
        self.value = value

    def __call__(self, x: Array) -> Array:
        if self.value in x:
            self.stop()
        return x


def echo(x: Array) -> Array:
    """A script that answers with the input."""
    return x


class Gate(Stop):
    """Observes the batches of one model, and decides when each batch may be computed."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_sizes: list[int] = []
        """The number of samples in each batch that reached the runtime, in the order of the batches."""
        self.begun: list[float] = []
        """The time at which each batch reached the runtime, on the monotonic clock."""
        self.delay = 0.0
        """Even while the gate is open, each batch waits this many seconds."""

    def open(self) -> None:
        """Let the waiting batches and all later ones be computed."""
        self.release()

    def wait_until_computing(self) -> None:
        """Wait until one more batch has reached the runtime."""
        self.wait()

    def pass_through(self, samples: int) -> None:
        """Count a batch, and wait until the batch may be computed."""
        self.batch_sizes.append(samples)
        self.begun.append(time.monotonic())
        self.stop()
        pass_time(self.delay)


class _GatedRuntime(Runtime):
    gate: Gate | None = None
    failure: InferenceError | None = None
    play: Callable[[Runtime, Mapping[str, Any], bool], Any]
    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()

    def run(self, inputs: Any, *, alone: bool = False) -> Any:
        failure = self.failure  # read before the wait: later changes must not affect this batch
        if self.gate is not None:
            self.gate.pass_through(len(next(iter(inputs.values()))))
        if failure is not None:
            raise failure
        played = self.play(self, inputs, alone)
        return super().run(inputs, alone=alone) if played is None else played


class Gates:
    """The factory, for ``Server(config, runtimes=Gates())``. Without a test's intervention, runtimes compute batches
    normally.

    Example:
        with gates.closed("gather") as gate:
            calls = [...]
            gate.wait_until_computing()
            gate.open()
    """

    def __init__(self, on_load: Callable[[Runtime], object] = lambda _: None) -> None:
        """``on_load`` is called with each runtime after the runtime has loaded its file, ``runtime.path``."""
        self.scripts: dict[str, Script] = {}
        self.batches: defaultdict[str, list[list[float]]] = defaultdict(list)
        """For each model, the first column of each batch that one of the ``scripts`` computed."""
        self.alone: defaultdict[str, list[bool]] = defaultdict(list)
        """For each batch that a script computed: whether the batch was allowed to use every thread."""
        self._on_load = on_load
        self._lock = threading.Lock()
        self._loaded: WeakSet[_GatedRuntime] = WeakSet()
        self._held_loads: dict[str, Stop] = {}

    def __call__(self, path: Path, **options: Any) -> Runtime:
        """Load a file. The arguments are those of Runtime."""
        held = self._held_loads.get(_model(path))
        if held is not None:
            held.stop()
        runtime = _GatedRuntime(path, **options)
        runtime.play = self._play
        with self._lock:
            self._loaded.add(runtime)
        self._on_load(runtime)
        return runtime

    def play(self, **scripts: Script) -> None:
        """Compute the named models' batches with these scripts from now on. Call this when the server is ready, because
        loading a model also computes batches."""
        self.scripts = scripts

    @contextmanager
    def closed(self, model: str) -> Iterator[Gate]:
        """Hold back the batches of a model's loaded versions until the gate is opened or the block ends. Versions that
        are loaded later have no gate."""
        gate = self._attach(model)
        try:
            yield gate
        finally:
            gate.open()

    def counted(self, model: str) -> Gate:
        """An open gate that records the batches of a model's loaded versions."""
        gate = self._attach(model)
        gate.open()
        return gate

    def loaded(self, model: str) -> int:
        """The number of a model's versions that have open sessions, including versions that no longer serve."""
        with self._lock:
            return sum(_model(runtime.path) == model and not runtime.closed for runtime in self._loaded)

    @contextmanager
    def failing(self, model: str) -> Iterator[None]:
        """Inside the block, let each batch that reaches a loaded version of the model fail with a server error."""
        for runtime in self._runtimes(model):
            runtime.failure = InferenceError("ONNX Runtime failed: on purpose")
        try:
            yield
        finally:
            for runtime in self._runtimes(model):
                runtime.failure = None

    @contextmanager
    def held_load(self, model: str) -> Iterator[Stop]:
        """Hold back the loads of a model that begin inside the block, until they are released or the block ends."""
        held = self._held_loads[model] = Stop()
        try:
            yield held
        finally:
            del self._held_loads[model]
            held.release()

    def _play(self, runtime: Runtime, inputs: Mapping[str, Any], alone: bool) -> dict[str, Array] | None:
        name = _model(runtime.path)
        if (script := self.scripts.get(name)) is None:
            return None
        x = inputs["x"]
        self.batches[name].append([round(float(value), 4) for value in x[:, 0]])
        self.alone[name].append(alone)
        return {"y": script(x)}

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
    """The name of the model that has this file, <models>/<name>/<version>/model.onnx."""
    return path.parents[1].name
