"""Makes numpy arrays for a model's inputs and outputs: zeros, random arrays of a given datatype and shape, and samples
that the model can compute."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hangtag.serving.server.errors import InferenceError
from hangtag.serving.signature import Signature, TensorSpec

if TYPE_CHECKING:  # session.py imports this module, so an import here would be circular
    from hangtag.serving.server.runtime.session import Runtime

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

# ONNX Runtime's dtypes of some datatypes. Every other datatype in lower case is numpy's name of its dtype.
_DTYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object"}

LENGTHS = (1, 2, 3, 5, 8, 16, 32, 64, 224)
"""Lengths to try for free axes other than the batch. The first lengths at which the model runs are used."""
_SAMPLES = 7  # larger batches repeat some samples
_LEAST_SAMPLES = 3  # the third sample is ten times larger than the first two
MAX_VALUES = 2**26
"""The largest number of values in one input of a sample. A file may declare axes that are too large for any memory."""
INTEGER_LIMITS = (10, 2)
"""Exclusive upper bounds of integers, tried in turn because an integer may be an index into a table of unknown
length."""
TEXT_FORMATS = ("text {}", "{}")
"""Formats that turn random numbers into strings, tried in turn because a model may read numbers from strings."""


def dtype_of(spec: TensorSpec) -> np.dtype[Any]:
    """Return numpy's dtype for the datatype of an input or output."""
    return np.dtype(_DTYPES.get(spec.datatype, spec.datatype.lower()))


def shape_of(spec: TensorSpec, samples: int) -> tuple[int, ...]:
    """Return the shape of a batch, for an input or output whose only free axis is the first."""
    return (samples, *(size or 1 for size in spec.shape[1:]))


def zeros(spec: TensorSpec, batch_size: int) -> Array:
    """Return zeros, with size batch_size along a free first axis and 1 along every other free axis.

    A string is "0", because a model may read numbers from strings, and would fail on an empty string.
    """
    shape = [1 if size is None else size for size in spec.shape]
    if spec.shape and spec.shape[0] is None:
        shape[0] = batch_size
    dtype = dtype_of(spec)
    return np.full(shape, "0", dtype) if spec.datatype == "BYTES" else np.zeros(shape, dtype)


def random_rows(shape: Sequence[int], dtype: np.dtype[Any], seed: int) -> Array:
    """Return random values: real numbers from 0 to 1, any byte for uint8, and 0 or 1 for all other types, whose values
    may be indices."""
    generator = np.random.default_rng(seed)
    if dtype.kind == "f":
        return generator.random(shape).astype(dtype)
    return generator.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)


def pad(target: Array, rows: Array) -> None:
    """Write rows, at least one, to the beginning of the target, and fill the rest with copies of the last row.

    The padding repeats a caller's row, because a model may refuse arbitrary values, such as an index that is out of
    range.
    """
    count = len(rows)
    target[:count] = rows
    target[count:] = rows[-1]


class Sizes(NamedTuple):
    """Sizes and values that a signature leaves open, chosen for a sample."""

    length: int
    """The size of the free axes after the first axis, in the first input with such axes."""
    state: int
    """The size of the free axes after the first axis, in all inputs after the first input with such axes. In a
    recurrent state, such an axis may be the batch."""
    below: int
    """Integers are drawn from 0 up to this bound, exclusive."""
    text_format: str = TEXT_FORMATS[0]
    """The format that makes a string from a number."""


@dataclass(frozen=True)
class Extent:
    """How much a trial tries."""

    sizes: tuple[int, ...]
    """The batch sizes."""
    lengths: int
    """How many of LENGTHS are tried at most."""
    max_values: int = MAX_VALUES
    """The maximum number of values in one input of a sample."""
    seconds: float = math.inf
    """After this time, a trial does only the minimum: three samples, and one batch of each size, at one length."""


@dataclass(frozen=True)
class Trial:
    """Samples, and the model's answer to each sample on its own."""

    sizes: Sizes
    samples: Sequence[Tensors]
    answers: Sequence[Tensors]


def sample(signature: Signature, sizes: Sizes, seed: int, max_values: int = MAX_VALUES) -> Mapping[str, Array]:
    """Generate one sample.

    The samples of different seeds differ in scale: every third sample is ten times larger and every fifth is all zeros.
    The different scales expose a model that answers a sample differently if its batch has larger values.

    Returns:
        Input name -> array [1, ...].

    Raises:
        InferenceError: An input would have more than ``max_values`` values.
    """
    random = np.random.default_rng(seed)
    scale = 0 if seed % 5 == 4 else 10 if seed % 3 == 2 else 1
    arrays, length = {}, sizes.length
    for spec in signature.inputs:
        shape = [length if size is None else size for size in spec.shape]
        if None in spec.shape[1:]:
            length = sizes.state
        if spec.shape and spec.shape[0] is None:
            shape[0] = 1
        if math.prod(shape) > max_values:
            raise InferenceError(
                f"one sample of {spec.name!r} has {math.prod(shape):,} values; the limit is {max_values:,}"
            )
        dtype = dtype_of(spec)
        values: Any
        if spec.datatype == "BYTES":
            texts = [sizes.text_format.format(number) for number in random.integers(0, 100, shape).ravel()]
            values = np.array(texts, object).reshape(shape)
        elif spec.datatype == "BOOL":
            values = random.integers(0, 2, shape)
        elif spec.datatype == "UINT8":  # most UINT8 inputs are images
            values = random.integers(0, 256 if scale != 1 else 64, shape) * min(scale, 1)
        elif dtype.kind in "iu":
            values = random.integers(0, sizes.below, shape) * min(scale, 1)
        else:
            values = random.normal(size=shape) * scale
        arrays[spec.name] = np.asarray(values, dtype)  # numpy draws a scalar as a number, not as an array
    return arrays


def trials(runtime: "Runtime", extent: Extent, deadline: float, failures: list[InferenceError]) -> Iterator[Trial]:
    """Yield a trial for each of the first lengths at which the model runs every sample. This function searches the
    remaining sizes that the signature leaves open.

    If the model fails at some sizes, its exception is appended to ``failures``.
    """
    inputs = runtime.signature.inputs
    texts = TEXT_FORMATS if any(spec.datatype == "BYTES" for spec in inputs) else TEXT_FORMATS[:1]
    with_lengths = sum(None in spec.shape[1:] for spec in inputs)
    yielded = 0
    for length in LENGTHS if with_lengths else (1,):
        states = (length, 1) if with_lengths > 1 and length > 1 else (length,)
        for state, below, text_format in product(states, INTEGER_LIMITS, texts):
            sizes = Sizes(length, state, below, text_format)
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


def _trial(runtime: "Runtime", sizes: Sizes, extent: Extent, deadline: float) -> Trial:
    """Run each sample on its own. Raises InferenceError if the model fails on a sample."""
    samples: list[Tensors] = []
    answers: list[Tensors] = []
    for seed in range(_SAMPLES):
        if seed >= _LEAST_SAMPLES and time.monotonic() > deadline:
            break
        samples.append(sample(runtime.signature, sizes, seed, extent.max_values))
        answers.append(runtime.run(samples[-1]))
    return Trial(sizes, samples, answers)
