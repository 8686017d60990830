"""Checks that another way to compute a model answers as its session does, and measures which is faster."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hangtag.serving.server.runtime.arrays import Array, Tensors, dtype_of, random_rows, shape_of
from hangtag.serving.server.runtime.io_binding import BufferPool
from hangtag.serving.signature import Signature

Pool = TypeVar("Pool", bound=BufferPool)
Compute = Callable[[Tensors], Mapping[str, Array]]

# Wide, because the check looks for answers to other rows, not for a device's rounding.
_TOLERANCE = 0.01
_CHECKS = 2  # a graph that reads the inputs of its capture answers the first batch correctly
_RUNS = 7
_ENOUGH_SECONDS = 0.03  # of one way to compute one batch; slow models need fewer runs, and the start must not wait


@dataclass(frozen=True)
class Verification:
    """Compares buffer pools with ``reference``, a way to compute that is known to be right.

    The first axis alone of each of the signature's inputs and outputs is free.
    """

    signature: Signature
    reference: Compute

    def verified(self, make_pool: Callable[[], Pool]) -> tuple[Pool | None, str]:
        """The pool, where its answers equal the reference's; else None and why. Every exception counts as a reason."""
        try:
            pool = make_pool()
            problem = self._difference(pool)
        except Exception as error:
            return None, str(error)
        return (None, problem) if problem else (pool, "")

    def is_faster(self, pool: BufferPool, other: BufferPool, share: float) -> bool:
        """Whether one batch of each size takes less than this share of the time that the other pool takes."""
        batches = [self._batch(size, seed=0) for size in pool.sizes]
        return seconds(pool.run, batches) < share * seconds(other.run, batches)

    def _batch(self, samples: int, seed: int) -> Tensors:
        return {spec.name: random_rows(shape_of(spec, samples), dtype_of(spec), seed) for spec in self.signature.inputs}

    def _difference(self, pool: BufferPool) -> str:
        """Compare a full batch and a padded one of each size; returns the first difference, or an empty text."""
        for size in pool.sizes:
            for check in range(_CHECKS):
                samples = max(1, size - check)
                inputs = self._batch(samples, seed=check)
                expected = self.reference(inputs)
                for name, array in pool.run(inputs).items():
                    if not _equal(array, expected[name]):
                        return f"output {name!r} differs from the session's with {samples} samples"
        return ""


def seconds(compute: Compute, batches: Sequence[Tensors]) -> float:
    """The sum over the batches of the shortest of several runs, so that other work of the machine counts little."""
    return sum(_shortest(compute, inputs) for inputs in batches)


def _shortest(compute: Compute, inputs: Tensors) -> float:
    runs: list[float] = []
    while len(runs) < 2 or (len(runs) < _RUNS and sum(runs) < _ENOUGH_SECONDS):
        runs.append(_timed(compute, inputs))
    return min(runs)


def _timed(compute: Compute, inputs: Tensors) -> float:
    started = time.perf_counter()
    compute(inputs)
    return time.perf_counter() - started


def _equal(array: Array, expected: Array) -> bool:
    if array.shape != expected.shape:
        return False
    if array.dtype.kind != "f":
        return bool((array == expected).all())
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0))
    return np.allclose(array, expected, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True)
