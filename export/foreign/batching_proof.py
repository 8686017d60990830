"""Find out whether a model's requests may be batched: run the same inputs alone and in batches, and compare."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hangtag.export.arrays import Array
from hangtag.export.foreign.synthetic_inputs import Sizes, candidates, sample
from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.session import Runtime

SIZES = (2, 3, 7, 16, 64)
"""The batch sizes that are tried; 64 is the server's default max_batch_size."""
LENGTHS = (1, 2, 3, 5, 8, 16, 32, 64, 224)
"""Tried for free axes other than the batch; the first four that the model runs at are used."""
_MAX_LENGTHS = 4
_SAMPLES = 7  # larger batches hold some of them several times
# By size of a float in bytes: how far sums in another order may differ, as a share of the output's largest value.
_TOLERANCES = {2: 1e-2, 4: 1e-3, 8: 1e-6}
_TOLERANCE_IN_8_BITS = 0.05
"""Where layers round to 8 bits: a sum in another order may be rounded to the next of 256 steps, and later layers go on
from there."""

Tensors = Mapping[str, Array]


@dataclass(frozen=True)
class Verdict:
    """Whether requests may be batched, why, and what was tried. The fields are keys in a published file's metadata."""

    batched: bool
    why: str
    lengths: tuple[int, ...] = ()
    max_difference: float = 0.0


def prove(runtime: Runtime, obstacle: str | None, *, in_8_bits: bool = False) -> tuple[Verdict, Sizes]:
    """Run samples alone and in batches, at several lengths of the free axes.

    Args:
        obstacle: why the graph itself must not be batched, if so; then the model is only run on single samples.
        in_8_bits: whether layers round to 8 bits with scales that do not depend on the inputs.

    Returns:
        The verdict, and sizes at which the model runs.

    Raises:
        InferenceError: no synthetic input gets an answer.
    """
    failures: list[InferenceError] = []
    trials = list(_trials(runtime, _MAX_LENGTHS if obstacle is None else 1, failures))
    if not trials:
        raise InferenceError(f"no synthetic input gets an answer; the last: {failures[-1]}")
    return _judge(runtime, obstacle, trials, _TOLERANCE_IN_8_BITS if in_8_bits else 0.0), trials[0]


def _judge(runtime: Runtime, obstacle: str | None, trials: Sequence[Sizes], tolerance: float) -> Verdict:
    lengths = tuple(trial.length for trial in trials)
    if obstacle is not None:
        return Verdict(False, obstacle, lengths)
    largest = 0.0
    for trial in trials:
        samples = [sample(runtime.signature, trial, seed) for seed in range(_SAMPLES)]
        expected = [runtime.run(inputs) for inputs in samples]
        for size in SIZES:
            for start in range(0, _SAMPLES, size):
                members = [(start + place) % _SAMPLES for place in range(size)]
                alone = [expected[i] for i in members]
                problem, difference = _compare(runtime, [samples[i] for i in members], alone, tolerance)
                if problem is not None:
                    return Verdict(False, problem, lengths)
                largest = max(largest, difference)
    return Verdict(True, f"the same answers alone and in batches of {', '.join(map(str, SIZES))}", lengths, largest)


def _trials(runtime: Runtime, count: int, failures: list[InferenceError]) -> Iterator[Sizes]:
    """The first ``count`` lengths at which the model runs every sample, with the other sizes at which it does.

    Exceptions at other sizes are appended to ``failures``.
    """
    yielded = 0
    for trials in candidates(runtime.signature, LENGTHS):
        for trial in trials:
            try:
                for seed in range(_SAMPLES):
                    runtime.run(sample(runtime.signature, trial, seed))
            except InferenceError as error:
                failures.append(error)
                continue
            yield trial
            yielded += 1
            break
        if yielded == count:
            return


def _compare(
    runtime: Runtime, samples: list[Tensors], expected: list[dict[str, Array]], tolerance: float
) -> tuple[str | None, float]:
    """Run these samples as one batch. Floats may differ by ``tolerance`` where that is more than their type's.

    Returns:
        Why they may not be batched, or None; and how far the answers are from those alone, as a share.
    """
    size = len(samples)
    try:
        answers = runtime.run({name: np.concatenate([inputs[name] for inputs in samples]) for name in samples[0]})
    except (InferenceError, MemoryError) as error:
        return f"a batch of {size} fails: {' '.join(str(error).split())[:200]}", 0.0
    largest = 0.0
    for name, rows in answers.items():
        alone = [answer[name] for answer in expected]
        if rows.ndim == 0 or len(rows) != size or any(len(row) != 1 for row in alone):
            return f"{name!r} has {len(rows) if rows.ndim else 'no'} rows for a batch of {size}", 0.0
        if len({row.shape for row in alone}) != 1 or alone[0].shape[1:] != rows.shape[1:]:
            return f"{name!r} has another shape in a batch of {size} than alone", 0.0
        difference = _difference(rows, np.concatenate(alone))
        if not difference <= (max(tolerance, _TOLERANCES[rows.dtype.itemsize]) if rows.dtype.kind == "f" else 0.0):
            return f"{name!r} of the same input differs between a batch of 1 and a batch of {size}", difference
        largest = max(largest, difference)
    return None, largest


def _difference(rows: Array, expected: Array) -> float:
    """The largest difference, as a share of the largest value; infinite where only one of the two is NaN or infinite.

    For values that are no floats it is 1 if any two differ, else 0.
    """
    if rows.dtype.kind != "f":
        return float(not np.array_equal(rows, expected))
    actual, wide = rows.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(np.isnan(actual), np.isnan(wide)) or not np.array_equal(
        actual[np.isinf(wide)], wide[np.isinf(wide)]
    ):
        return np.inf
    if not finite.any():
        return 0.0
    return float(np.abs(actual[finite] - wide[finite]).max() / max(1.0, np.abs(wide[finite]).max()))
