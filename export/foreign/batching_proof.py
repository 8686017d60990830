"""May a model's requests be joined? The graph's word for it, then the proof: the same inputs alone and together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from hangtag.export.foreign.synthetic_inputs import RANGES, sample
from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.session import Array, Runtime
from hangtag.serving.signature import Signature

SIZES = (2, 3, 7, 16, 64)
"""64 is what a server joins at most unless it is told otherwise."""
LENGTHS = (1, 2, 3, 5, 8, 16, 32, 64, 224)
"""Tried for free axes other than the batch; the first four that the model runs at are used."""
_USED = 4
_SAMPLES = 7  # larger batches hold some of them several times
# A share of the output's largest value: sums in another order, in half precision and otherwise.
_TOLERANCES = {2: 1e-2, 4: 1e-3, 8: 1e-6}

Tensors = Mapping[str, Array]


@dataclass(frozen=True)
class Verdict:
    """Whether requests may be joined, why, and what was tried."""

    batched: bool
    why: str
    lengths: tuple[int, ...] = ()
    max_difference: float = 0.0


def prove(runtime: Runtime, obstacle: str | None) -> Verdict:
    """obstacle: what the graph says against it. Raises InferenceError when no made-up input gets any answer."""
    failures: list[InferenceError] = []
    trials = list(_trials(runtime, _USED if obstacle is None else 1, failures))
    if not trials:
        raise InferenceError(f"no made-up input gets an answer; the last: {failures[-1]}")
    lengths = tuple(length for length, _ in trials)
    if obstacle is not None:
        return Verdict(False, obstacle, lengths)
    worst = 0.0
    for length, below in trials:
        alone = [sample(runtime.signature, length, seed, below) for seed in range(_SAMPLES)]
        expected = [runtime.run(inputs) for inputs in alone]
        for size in SIZES:
            for start in range(0, _SAMPLES, size):
                members = [(start + place) % _SAMPLES for place in range(size)]
                why, difference = _together(runtime, [alone[at] for at in members], [expected[at] for at in members])
                if why is not None:
                    return Verdict(False, why, lengths)
                worst = max(worst, difference)
    return Verdict(True, f"the same answers alone and in batches of {', '.join(map(str, SIZES))}", lengths, worst)


def _trials(runtime: Runtime, wanted: int, failures: list[InferenceError]) -> Iterator[tuple[int, int]]:
    """Lengths of the other free axes, and ranges of integers, at which the model gives an answer to each sample.

    failures: what went wrong at the others is added to it.
    """
    found = 0
    for length in LENGTHS if _has_free_axes(runtime.signature) else (1,):
        for below in RANGES:
            try:
                for seed in range(_SAMPLES):
                    runtime.run(sample(runtime.signature, length, seed, below))
            except InferenceError as error:
                failures.append(error)
                continue
            yield length, below
            found += 1
            break
        if found == wanted:
            return


def _has_free_axes(signature: Signature) -> bool:
    return any(None in spec.shape[1:] for spec in signature.inputs)


def _together(runtime: Runtime, inputs: list[Tensors], expected: list[dict[str, Array]]) -> tuple[str | None, float]:
    """Why these samples may not be joined, and else how far their answers are from those alone, as a share."""
    size = len(inputs)
    try:
        answers = runtime.run({name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]})
    except (InferenceError, MemoryError) as error:
        return f"a batch of {size} fails: {' '.join(str(error).split())[:200]}", 0.0
    worst = 0.0
    for name, rows in answers.items():
        if rows.ndim == 0 or len(rows) != size or any(len(one[name]) != 1 for one in expected):
            return f"{name!r} has {len(rows) if rows.ndim else 'no'} rows for a batch of {size}", 0.0
        wanted = np.concatenate([one[name] for one in expected]) if _join(name, expected) else None
        if wanted is None or wanted.shape != rows.shape:
            return f"{name!r} has another shape in a batch of {size} than alone", 0.0
        difference = _difference(rows, wanted)
        if not difference <= _TOLERANCES.get(rows.dtype.itemsize if rows.dtype.kind == "f" else 0, 0.0):
            return f"{name!r} of the same input differs between a batch of 1 and a batch of {size}", difference
        worst = max(worst, difference)
    return None, worst


def _join(name: str, expected: list[dict[str, Array]]) -> bool:
    return len({one[name].shape for one in expected}) == 1


def _difference(rows: Array, wanted: Array) -> float:
    """The largest difference, as a share of the largest value; of what is no real number, whether any differs."""
    if rows.dtype.kind != "f":
        return float(not np.array_equal(rows, wanted))
    ours, theirs = rows.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(theirs)
    if not np.array_equal(np.isnan(ours), np.isnan(theirs)) or not np.array_equal(
        ours[np.isinf(theirs)], theirs[np.isinf(theirs)]
    ):
        return np.inf
    if not finite.any():
        return 0.0
    return float(np.abs(ours[finite] - theirs[finite]).max() / max(1.0, np.abs(theirs[finite]).max()))
