"""Another way to compute a model is used only after it has answered as the session itself does."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hangtag.serving.server.runtime.batch_buckets import random_rows, shape_of
from hangtag.serving.server.runtime.io_binding import BoundSession
from hangtag.serving.signature import Signature

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]
S = TypeVar("S", bound=BoundSession)
Compute = Callable[[Tensors], Mapping[str, Array]]

# What must be found is an answer to other rows, not that one device rounds in two ways.
_TOLERANCE = 0.01
_CHECKS = 2  # a graph that reads what was there when it was captured is right once
_RUNS = 7


@dataclass(frozen=True)
class Proof:
    """ordinary: what is known to be right. dtypes: of each input, of which the first axis alone is free."""

    signature: Signature
    dtypes: Mapping[str, np.dtype[Any]]
    ordinary: Compute

    def tried(self, make: Callable[[], S]) -> tuple[S | None, str]:
        """A session that answers as it should; else None, and why. Whatever making or running it raises is a reason."""
        try:
            session = make()
            problem = self._difference(session)
        except Exception as error:
            return None, str(error)
        return (None, problem) if problem else (session, "")

    def gains(self, session: BoundSession, other: BoundSession, share: float) -> bool:
        """Whether batches of every size, one of each, take less than this share of the time that the other takes."""
        batches = [self._batch(size, seed=0) for size in session.sizes]
        return seconds(session.run, batches) < share * seconds(other.run, batches)

    def _batch(self, samples: int, seed: int) -> Tensors:
        return {
            spec.name: random_rows(shape_of(spec, samples), self.dtypes[spec.name], seed)
            for spec in self.signature.inputs
        }

    def _difference(self, session: BoundSession) -> str:
        """Full batches, and padded ones."""
        for size in session.sizes:
            for check in range(_CHECKS):
                samples = max(1, size - check)
                inputs = self._batch(samples, seed=check)
                right = self.ordinary(inputs)
                for name, array in session.run(inputs).items():
                    if not _alike(array, right[name]):
                        return f"output {name!r} is not the session's own with {samples} samples"
        return ""


def seconds(compute: Compute, batches: Sequence[Tensors]) -> float:
    """The shortest of several runs of each batch, added up: what else the machine did meanwhile does not count."""
    return sum(min(_timed(compute, inputs) for _ in range(_RUNS)) for inputs in batches)


def _timed(compute: Compute, inputs: Tensors) -> float:
    started = time.perf_counter()
    compute(inputs)
    return time.perf_counter() - started


def _alike(array: Array, right: Array) -> bool:
    if array.shape != right.shape:
        return False
    if array.dtype.kind != "f":
        return bool((array == right).all())
    scale = float(np.abs(right[np.isfinite(right)]).max(initial=0))
    return np.allclose(array, right, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True)
