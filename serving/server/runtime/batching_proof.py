"""Decides whether a loaded model's requests are batched: by the operator's setting, the export's check, or a trial.

A file's axes do not show whether rows are independent. An operator along the first axis, such as softmax, may keep the
axis's name and size, but mix values of different callers whose requests share a batch. So a trial computes the same
inputs alone and in batches. The import runs a long trial. If the file records no check, the server runs a short trial.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.gate_proof import proves_batching
from hangtag.serving.server.runtime.inference_session import Array, Tensors, dtype_of
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.signature import Signature


class _Tolerance(NamedTuple):
    """How far two floats may differ because of rounding errors. The limit is the larger of ``place`` times the largest
    value at the same position in any sample's output, and ``anywhere`` times the largest value at any position."""

    place: float
    anywhere: float


_TOLERANCES = {2: _Tolerance(1e-2, 1e-3), 4: _Tolerance(1e-3, 1e-5), 8: _Tolerance(1e-6, 1e-11)}
"""The tolerance for sums whose terms are added in a different order, by the size of a float in bytes."""
_TOLERANCE_IN_8_BITS = _Tolerance(0.05, 0.05)
"""Rounding to 256 levels may move a sum to the next level, and later layers increase this difference."""
_TOLERANCES_ON_GPUS = _TOLERANCES | {4: _TOLERANCES[2]}
"""For some batch sizes, CUDA multiplies FP32 in TF32 (with FP16's 10 bits of mantissa)."""
_LEAST_SCALE = 1e-3  # smaller values may be rounding errors

_LENGTHS = (1, 2, 3, 5, 8, 16, 32, 64, 224)
"""The lengths that a trial tries, in this order, for dynamic axes other than the batch axis."""
_INTEGER_LIMITS = (10, 2)
"""Exclusive upper bounds of integers, tried in turn. An integer may be an index into a table of unknown length."""
_TEXT_FORMATS = ("text {}", "{}")  # tried in this order; some models accept only strings that are numbers


class Extent(NamedTuple):
    """The limits of a trial: the batch sizes, the number of different samples, the number of lengths tried for dynamic
    axes, and the number of values in an input, because a file may declare axes that are too large for any memory. A
    trial stops after ``seconds``, but always tries at least one length."""

    sizes: tuple[int, ...]
    samples: int = 7
    """At least 3, because the third sample is ten times larger. Larger batches repeat some samples."""
    lengths: int = 4
    max_values: int = 2**26
    seconds: float = math.inf


THOROUGH = Extent((2, 3, 7, 16, 64))
"""64 is the server's default max_batch_size."""


@dataclass(frozen=True)
class Verdict:
    """Whether requests may be batched, and why. The fields are keys in a published file's metadata."""

    batched: bool
    why: str
    lengths: tuple[int, ...] = ()
    """The lengths that were tried. Empty without a trial."""
    max_difference: float = 0.0


def decide_batching(runtime: Runtime, max_batch_size: int = ServerConfig.max_batch_size) -> Verdict:
    """Forbid a runtime to batch requests unless the operator, the validation record of an unchanged file, or a trial on
    synthetic inputs permits it. If batching is forbidden, ``why_unbatched`` of the runtime's signature says why."""
    signature = runtime.signature
    if not signature.batched:
        return Verdict(False, signature.why_unbatched or "")
    if signature.batching_override:
        return Verdict(True, "--model-max-batch-size allows batching, so the server did not test it")
    if max_batch_size == 1:
        return Verdict(True, "at most one sample is computed at a time")
    if "gate" in signature.metadata and proves_batching(runtime.path):
        return Verdict(True, "batching was checked at the export")
    sizes = tuple(sorted({min(size, max_batch_size) for size in (2, 7, max_batch_size)}))
    try:  # 2**22 values of FP32 take 16 MiB, the default of --max-message-mib
        extent = Extent(sizes, samples=3, lengths=2, max_values=2**22, seconds=0.5)
        verdict = prove(runtime, None, runtime.operators, extent)
        problem = "" if verdict.batched else f"a trial compared single rows and batches: {verdict.why}"
    except InferenceError as error:
        problem = f"the model cannot be tried: {' '.join(str(error).split())[:300]}"
    if problem:
        runtime.signature = replace(signature, disproof=problem)
        return Verdict(False, problem)
    return verdict


def prove(runtime: Runtime, obstacle: str | None, operators: Set[str], extent: Extent = THOROUGH) -> Verdict:
    """Run samples alone and in batches, at several lengths of the dynamic axes. Raises InferenceError if the model
    fails on every synthetic input. ``obstacle`` is the reason, if any, why the graph forbids batching; then the
    trial runs only single samples. The model's ``operators`` may have their domains as prefixes."""
    tolerances = _tolerances(runtime, operators)
    lengths: tuple[int, ...] = ()
    largest, telling = 0.0, False
    for length, samples, answers in _trials(runtime, extent):
        lengths = (*lengths, length)
        if obstacle is not None:
            return Verdict(False, obstacle, lengths)
        try:
            largest = max(largest, _largest_difference(runtime, samples, answers, tolerances, extent.sizes))
        except _DependentRowsError as error:
            return Verdict(False, str(error), lengths)
        telling = telling or not _all_equal(answers)
    if not telling:
        return Verdict(False, "all synthetic inputs get the same answer, so the trial proves nothing", lengths)
    why = f"the same answers alone and in batches of {', '.join(map(str, extent.sizes))}"
    return Verdict(True, why, lengths, largest)


class _DependentRowsError(Exception):
    """The answers in a batch differ from the answers to the single samples."""


def _trials(runtime: Runtime, extent: Extent) -> Iterator[tuple[int, list[Tensors], list[Tensors]]]:
    """For each length at which the model runs, yield the length, samples, and the model's answer to each sample alone.
    Raises InferenceError if the model fails on every synthetic input.

    The length is the size of every dynamic axis after an input's first axis. If the model fails, only the first input
    with such axes keeps this size. In others the size is 1, as a recurrent state's second axis may be the batch axis.
    """
    signature = runtime.signature
    formats = _TEXT_FORMATS if any(spec.datatype == "BYTES" for spec in signature.inputs) else _TEXT_FORMATS[:1]
    with_lengths = sum(None in spec.shape[1:] for spec in signature.inputs)
    yielded, failure = 0, None
    ends = time.monotonic() + extent.seconds
    for length in _LENGTHS if with_lengths else (1,):
        states = (length, 1) if with_lengths > 1 and length > 1 else (length,)
        for state, below, text_format in product(states, _INTEGER_LIMITS, formats):
            if yielded == extent.lengths or ((yielded or failure) and time.monotonic() > ends):
                break
            try:
                samples = [
                    _sample(signature, (length, state), below, text_format, seed, extent.max_values)
                    for seed in range(extent.samples)
                ]
                answers: list[Tensors] = [runtime.run(sample) for sample in samples]
            except InferenceError as error:
                failure = error
            else:
                yield length, samples, answers
                yielded += 1
                break
    if not yielded:
        raise InferenceError(f"the model fails on every synthetic input; the last error: {failure}")


def _sample(
    signature: Signature, lengths: tuple[int, int], below: int, text_format: str, seed: int, max_values: int
) -> Tensors:
    """Generate the sample number ``seed``: for each input an array [1, ...]. Raises InferenceError if an input would
    have more than ``max_values`` values.

    ``lengths`` has two sizes for dynamic axes other than the first axis. The first size is for the first input that has
    such axes, and the second for all other inputs. Integers are drawn from 0 up to ``below``, exclusive, and
    ``text_format`` makes a string from a number. Every third sample is ten times larger and every fifth is all zeros,
    to expose a model that answers a sample differently if its batch has larger values.
    """
    random = np.random.default_rng(seed)
    scale = 0 if seed % 5 == 4 else 10 if seed % 3 == 2 else 1
    arrays, (length, of_later_inputs) = {}, lengths
    for spec in signature.inputs:
        shape = [length if size is None else size for size in spec.shape]
        if None in spec.shape[1:]:
            length = of_later_inputs
        if spec.shape and spec.shape[0] is None:
            shape[0] = 1
        if math.prod(shape) > max_values:
            raise InferenceError(
                f"one sample of {spec.name!r} has {math.prod(shape):,} values; the limit is {max_values:,}"
            )
        dtype = dtype_of(spec)
        values: Any
        if spec.datatype == "BYTES":
            texts = [text_format.format(number) for number in random.integers(0, 100, shape).ravel()]
            values = np.array(texts, object).reshape(shape)
        elif dtype.kind in "iub":  # most UINT8 inputs are images
            limit = {"BOOL": 2, "UINT8": 64 if scale == 1 else 256}.get(spec.datatype, below)
            values = random.integers(0, limit, shape) * min(scale, 1)
        else:
            values = random.normal(size=shape) * scale
        arrays[spec.name] = np.asarray(values, dtype)  # numpy returns a number, not an array, for a scalar
    return arrays


def _tolerances(runtime: Runtime, operators: Set[str]) -> Mapping[int, _Tolerance]:
    """Map the size of a float in bytes to its tolerance, which is larger for a model quantized to 8 bits, unless it has
    DynamicQuantize layers: these make rows depend on each other, which a larger tolerance could hide."""
    kinds = {operator.rpartition(".")[2] for operator in operators}
    in_8_bits = any(kind.startswith(("QuantizeLinear", "QLinear", "QGemm")) for kind in kinds)
    if in_8_bits and not any(kind.startswith("DynamicQuantize") for kind in kinds):
        return dict.fromkeys(_TOLERANCES, _TOLERANCE_IN_8_BITS)
    return _TOLERANCES if runtime.on_cpu else _TOLERANCES_ON_GPUS


def _all_equal(answers: Sequence[Tensors]) -> bool:
    """Whether all samples get equal answers. If they do, swapped rows, for example, would go unnoticed."""
    first, *others = answers
    return all(
        np.array_equal(array, other[name], equal_nan=array.dtype.kind == "f")
        for other in others
        for name, array in first.items()
    )


def _largest_difference(
    runtime: Runtime,
    samples: Sequence[Tensors],
    answers: Sequence[Tensors],
    tolerances: Mapping[int, _Tolerance],
    batch_sizes: Sequence[int],
) -> float:
    """Compute the samples in batches, and compare the results with ``answers``, which were computed singly. Return the
    largest difference, divided by the scale at its position, or raise _DependentRowsError."""
    scales = {name: _scales([answer[name] for answer in answers], tolerances) for name in answers[0]}

    def difference_in_batch(members: Sequence[int]) -> float:
        size, largest = len(members), 0.0
        try:
            joined = {name: np.concatenate([samples[member][name] for member in members]) for name in samples[0]}
            outputs = runtime.run(joined)
        except (InferenceError, MemoryError) as error:
            raise _DependentRowsError(f"a batch of {size} fails: {' '.join(str(error).split())[:200]}") from error
        for name, rows in outputs.items():
            alone = [answers[member][name] for member in members]
            if rows.ndim == 0 or len(rows) != size or any(len(row) != 1 for row in alone):
                raise _DependentRowsError(f"{name!r} has {len(rows) if rows.ndim else 'no'} rows for a batch of {size}")
            if len({row.shape for row in alone}) != 1 or alone[0].shape[1:] != rows.shape[1:]:
                raise _DependentRowsError(f"{name!r} has a different shape in a batch of {size} than alone")
            difference = _difference(rows, np.concatenate(alone), scales[name])
            if not difference <= (tolerances[rows.dtype.itemsize].place if rows.dtype.kind == "f" else 0.0):
                raise _DependentRowsError(
                    f"{name!r} of the same input differs between a batch of 1 and a batch of {size}"
                )
            largest = max(largest, difference)
        return largest

    count, largest = len(samples), 0.0
    for start, end in [(start, start + size) for size in batch_sizes for start in range(0, count, size)]:
        members = [place % count for place in range(start, end)]
        try:
            largest = max(largest, difference_in_batch(members))
        except _DependentRowsError as error:
            try:
                difference_in_batch(members[:1])
            except _DependentRowsError:
                raise _DependentRowsError("the same input gets a different answer each time") from error
            raise
    return largest


def _scales(answers: Sequence[Array], tolerances: Mapping[int, _Tolerance]) -> Array:
    """Return the scale of each value of an output as an array [1, ...], or one scale for all values. A value may differ
    from the expected value by at most ``place`` times its scale."""
    if answers[0].dtype.kind != "f" or len({answer.shape for answer in answers}) != 1:
        return np.ones(())
    tolerance = tolerances[answers[0].dtype.itemsize]
    values = np.abs(np.stack(answers).astype(np.float64))
    values[~np.isfinite(values)] = 0
    largest = max(_LEAST_SCALE, float(values.max(initial=0)))
    least = max(_LEAST_SCALE, largest * tolerance.anywhere / tolerance.place)
    return np.asarray(np.maximum(values.max(axis=0, initial=0), least))


def _difference(rows: Array, expected: Array, scales: Array) -> float:
    """Return the largest difference, divided by the scale at the same position; infinite if NaNs or infinities differ.
    For values that are not floats, the result is 1 if any value differs, else 0."""
    if rows.dtype.kind != "f":
        return float(not np.array_equal(rows, expected))
    actual, wide = rows.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        shares = np.abs(actual - wide) / scales
    shares[(actual == wide) | (np.isnan(actual) & np.isnan(wide))] = 0
    return float(np.where(np.isnan(shares), np.inf, shares).max(initial=0))
