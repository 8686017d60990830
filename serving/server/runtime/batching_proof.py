"""Find out whether a model's requests may be batched: run the same inputs alone and in batches, and compare.

The export does so thoroughly, once, for a file that somebody else made; the server briefly, whenever it loads a file
without such a proof (see `batching_decision`).
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.arrays import Array, Tensors
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.runtime.synthetic_inputs import MAX_VALUES, Sizes, candidates, sample

LENGTHS = (1, 2, 3, 5, 8, 16, 32, 64, 224)
"""Tried for free axes other than the batch; the first at which the model runs are used."""
_SAMPLES = 7  # larger batches hold some of them several times
_LEAST_SAMPLES = 3  # the third one is ten times larger than the first two


class _Tolerance(NamedTuple):
    """How far floats may differ.

    Attributes:
        place: As a share of the largest value that the same place of the output has for any sample, so that large
            values in one place hide nothing in another.
        anywhere: As a share of the largest value anywhere in the output: a small value may be the difference of large
            ones.
    """

    place: float
    anywhere: float


_TOLERANCES = {2: _Tolerance(1e-2, 1e-3), 4: _Tolerance(1e-3, 1e-5), 8: _Tolerance(1e-6, 1e-11)}
"""By size of a float in bytes, for sums in another order."""
_TOLERANCE_IN_8_BITS = _Tolerance(0.05, 0.05)
"""Where layers round to 8 bits: a sum in another order may be rounded to the next of 256 steps, and later layers go on
from there."""
_TOLERANCES_ON_GPUS = _TOLERANCES | {4: _TOLERANCES[2]}
"""CUDA may multiply FP32 in TF32, which has FP16's 10 bits of mantissa, and choose so for some batch sizes alone."""
_LEAST_SCALE = 1e-3
"""Where the largest value is below this, the shares are of this: such values may be what rounding left."""

Answers = Mapping[str, Array]


@dataclass(frozen=True)
class Extent:
    """How much is tried."""

    sizes: tuple[int, ...]
    """The batch sizes."""
    lengths: int
    """At most so many of LENGTHS."""
    max_values: int = MAX_VALUES
    """The largest input of one sample."""
    seconds: float = math.inf
    """After this long only the least follows: three samples, and one batch of each size, at one length."""


THOROUGH = Extent((2, 3, 7, 16, 64), lengths=4)
"""64 is the server's default max_batch_size."""


@dataclass(frozen=True)
class Verdict:
    """Whether requests may be batched, why, and what was tried. The fields are keys in a published file's metadata."""

    batched: bool
    why: str
    lengths: tuple[int, ...] = ()
    max_difference: float = 0.0


@dataclass(frozen=True)
class _Trial:
    """Samples, and the model's answer to each of them alone."""

    sizes: Sizes
    samples: Sequence[Tensors]
    answers: Sequence[Answers]


def prove(
    runtime: Runtime, obstacle: str | None, operators: Set[str], extent: Extent = THOROUGH
) -> tuple[Verdict, Sizes]:
    """Run samples alone and in batches, at several lengths of the free axes.

    Args:
        runtime: The loaded model.
        obstacle: Why the graph itself must not be batched, if so; then the model is only run on single samples.
        operators: Of the model, with or without their domains.
        extent: How much is tried.

    Returns:
        The verdict, and sizes at which the model runs.

    Raises:
        InferenceError: No synthetic input gets an answer.
    """
    deadline = time.monotonic() + extent.seconds
    tolerances = _tolerances(runtime, operators)
    failures: list[InferenceError] = []
    trials: list[Sizes] = []
    largest, telling = 0.0, False
    for trial in _trials(runtime, extent, deadline, failures):
        trials.append(trial.sizes)
        lengths = tuple(sizes.length for sizes in trials)
        if obstacle is not None:
            return Verdict(False, obstacle, lengths), trials[0]
        problem, difference = _judge(runtime, trial, extent.sizes, deadline, tolerances)
        if problem is not None:
            return Verdict(False, problem, lengths), trials[0]
        largest = max(largest, difference)
        telling = telling or not _all_equal(trial.answers)
    if not trials:
        raise InferenceError(f"no synthetic input gets an answer; the last: {failures[-1]}")
    if not telling:
        return Verdict(False, "each synthetic input gets the same answer, which proves nothing", lengths), trials[0]
    why = f"the same answers alone and in batches of {', '.join(map(str, extent.sizes))}"
    return Verdict(True, why, lengths, largest), trials[0]


def _tolerances(runtime: Runtime, operators: Set[str]) -> Mapping[int, _Tolerance]:
    """How far floats may differ, by their size in bytes.

    Layers that round to 8 bits may differ by steps, but not where they find the size of the steps in the batch itself:
    then each row depends on the range of the others.
    """
    kinds = {operator.rpartition(".")[2] for operator in operators}
    in_8_bits = any(kind.startswith(("QuantizeLinear", "QLinear", "QGemm")) for kind in kinds)
    if in_8_bits and not any(kind.startswith("DynamicQuantize") for kind in kinds):
        return dict.fromkeys(_TOLERANCES, _TOLERANCE_IN_8_BITS)
    return _TOLERANCES if runtime.on_cpu else _TOLERANCES_ON_GPUS


def _trials(runtime: Runtime, extent: Extent, deadline: float, failures: list[InferenceError]) -> Iterator[_Trial]:
    """The first lengths at which the model runs every sample, with the other sizes at which it does.

    Exceptions at other sizes are appended to ``failures``.
    """
    yielded = 0
    for alternatives in candidates(runtime.signature, LENGTHS):
        for sizes in alternatives:
            if (yielded or failures) and time.monotonic() > deadline:
                return
            try:
                trial = _trial(runtime, sizes, extent, deadline)
            except InferenceError as error:
                failures.append(error)
                continue
            yield trial
            yielded += 1
            break
        if yielded == extent.lengths:
            return


def _trial(runtime: Runtime, sizes: Sizes, extent: Extent, deadline: float) -> _Trial:
    """Run samples alone. Raises InferenceError where one of them gets no answer."""
    samples: list[Tensors] = []
    answers: list[Answers] = []
    for seed in range(_SAMPLES):
        if seed >= _LEAST_SAMPLES and time.monotonic() > deadline:
            break
        samples.append(sample(runtime.signature, sizes, seed, extent.max_values))
        answers.append(runtime.run(samples[-1]))
    return _Trial(sizes, samples, answers)


def _judge(
    runtime: Runtime, trial: _Trial, batch_sizes: Sequence[int], deadline: float, tolerances: Mapping[int, _Tolerance]
) -> tuple[str | None, float]:
    """Run the samples of a trial in batches; after the deadline only in those that have the first sample.

    Returns:
        Why they may not be batched, or None; and how far the answers are from those alone, as a share.
    """
    count = len(trial.samples)
    scales = {name: _scales([answer[name] for answer in trial.answers], tolerances) for name in trial.answers[0]}
    batches = sorted((start, size) for size in batch_sizes for start in range(0, count, size))
    largest = 0.0
    for start, size in batches:
        if start and time.monotonic() > deadline:
            break
        members = [(start + place) % count for place in range(size)]
        samples, alone = ([each[i] for i in members] for each in (trial.samples, trial.answers))
        problem, difference = _compare(runtime, samples, alone, scales, tolerances)
        if problem is not None:
            again, _ = _compare(runtime, samples[:1], alone[:1], scales, tolerances)
            return problem if again is None else "the same input gets another answer each time", difference
        largest = max(largest, difference)
    return None, largest


def _compare(
    runtime: Runtime,
    samples: Sequence[Tensors],
    expected: Sequence[Answers],
    scales: Mapping[str, Array],
    tolerances: Mapping[int, _Tolerance],
) -> tuple[str | None, float]:
    """Run these samples as one batch, and compare its rows with the answers to each sample alone.

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
        difference = _difference(rows, np.concatenate(alone), scales[name])
        if not difference <= (tolerances[rows.dtype.itemsize].place if rows.dtype.kind == "f" else 0.0):
            return f"{name!r} of the same input differs between a batch of 1 and a batch of {size}", difference
        largest = max(largest, difference)
    return None, largest


def _scales(answers: Sequence[Array], tolerances: Mapping[int, _Tolerance]) -> Array:
    """What a difference at each place of an output is measured by: the share of it that is allowed is ``place``."""
    if answers[0].dtype.kind != "f" or len({answer.shape for answer in answers}) != 1:
        return np.ones(())
    tolerance = tolerances[answers[0].dtype.itemsize]
    values = np.abs(np.stack(answers).astype(np.float64))
    values[~np.isfinite(values)] = 0
    largest = max(_LEAST_SCALE, float(values.max(initial=0)))
    least = max(_LEAST_SCALE, largest * tolerance.anywhere / tolerance.place)
    scales: Array = np.maximum(values.max(axis=0, initial=0), least)
    return scales


def _difference(rows: Array, expected: Array, scales: Array) -> float:
    """The largest difference, as a share of the scale of its place; infinite where only one of the two is NaN or
    infinite.

    For values that are no floats it is 1 if any two differ, else 0.

    Args:
        rows: [batch, ...].
        expected: [batch, ...].
        scales: [1, ...], or a number.
    """
    if rows.dtype.kind != "f":
        return float(not np.array_equal(rows, expected))
    actual, wide = rows.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(np.isnan(actual), np.isnan(wide)) or not np.array_equal(
        actual[np.isinf(wide)], wide[np.isinf(wide)]
    ):
        return np.inf
    shares = np.abs(np.where(finite, actual, 0) - np.where(finite, wide, 0)) / scales
    return float(shares.max(initial=0))


def _all_equal(answers: Sequence[Answers]) -> bool:
    """Whether all samples get one answer: then rows that changed places, for example, would not show."""
    first, *others = answers
    return all(
        np.array_equal(array, other[name], equal_nan=array.dtype.kind == "f")
        for other in others
        for name, array in first.items()
    )
