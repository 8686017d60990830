"""A factory of runtimes that compute what a test says, and that record each batch."""

import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.server.runtime.session import Runtime

Array = npt.NDArray[np.float32]
Script = Callable[[Array], Array]
"""x [batch, 2] -> y [batch, 2]."""
TIMEOUT = 30.0


class Scripts:
    """A model computes what its file says, until ``play`` says something else.

    The loading of a version computes too, to see whether requests may be joined; so play once the server is ready.
    """

    def __init__(self, on_load: Callable[[Runtime], object]) -> None:
        """on_load: called with each runtime as soon as it has loaded its file, ``runtime.path``."""
        self.scripts: dict[str, Script] = {}
        self._on_load = on_load
        self.batches: defaultdict[str, list[list[float]]] = defaultdict(list)
        """By model the first column of each batch that a script computed."""
        self.alone: defaultdict[str, list[bool]] = defaultdict(list)
        """Whether each of them might use every thread."""

    def play(self, **scripts: Script) -> None:
        """Compute by these from now on, by the model's name."""
        self.scripts = scripts

    def __call__(self, path: Path, **options: Any) -> Runtime:
        """Load a file, with the arguments of Runtime."""
        runtime = _Scripted(self, path, **options)
        self._on_load(runtime)
        return runtime


class _Scripted(Runtime):
    def __init__(self, scripts: Scripts, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self._scripts = scripts

    def run(self, inputs: Any, *, alone: bool = False) -> Any:
        name = self.path.parents[1].name
        if name not in self._scripts.scripts:
            return super().run(inputs, alone=alone)
        x = inputs["x"]
        self._scripts.batches[name].append([round(float(value), 4) for value in x[:, 0]])
        self._scripts.alone[name].append(alone)
        return {"y": self._scripts.scripts[name](x)}


class Held:
    """A script that waits at each batch with a certain value until it is released, and answers with its input."""

    def __init__(self, value: float = 9) -> None:
        self.value = value
        self._released = threading.Event()
        self._reached = threading.Semaphore(0)

    def __call__(self, x: Array) -> Array:
        if self.value in x:
            self._reached.release()
            assert self._released.wait(TIMEOUT)
        return x

    def wait(self) -> None:
        """Wait until one more batch with the value has come."""
        assert self._reached.acquire(timeout=TIMEOUT)

    def release(self) -> None:
        self._released.set()


def echo(x: Array) -> Array:
    """Answers with its input."""
    return x
