"""Generate random inputs for any signature, by datatype and shape alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.arrays import Array, dtype_of
from hangtag.serving.signature import Signature, TensorSpec

INTEGER_LIMITS = (10, 2)
"""Integers are drawn below these, in turn: they may be indices into a table of unknown length."""
TEXT_FORMATS = ("text {}", "{}")
"""Strings are made by these from random numbers, in turn: a model may read numbers from strings."""


class Sizes(NamedTuple):
    """What a signature leaves open in a sample."""

    length: int
    """Of the free axes, other than an input's first."""
    state: int
    """The same, of all inputs but the first that has such an axis: in a state it may be the batch."""
    below: int
    """Integers are drawn from 0 up to this, exclusive."""
    text_format: str = TEXT_FORMATS[0]
    """Makes a string from a number."""


def candidates(signature: Signature, lengths: Sequence[int]) -> Iterator[list[Sizes]]:
    """For each of the lengths, the sizes to try."""
    texts = TEXT_FORMATS if any(spec.datatype == "BYTES" for spec in signature.inputs) else TEXT_FORMATS[:1]
    with_lengths = sum(None in spec.shape[1:] for spec in signature.inputs)
    for length in lengths if with_lengths else (1,):
        states = (length, 1) if with_lengths > 1 and length > 1 else (length,)
        yield [Sizes(length, state, *values) for state in states for values in product(INTEGER_LIMITS, texts)]


MAX_VALUES = 2**26
"""The largest input that one sample may have: a file may declare axes for which no machine has memory."""


def sample(signature: Signature, sizes: Sizes, seed: int, max_values: int = MAX_VALUES) -> Mapping[str, Array]:
    """Generate one sample.

    Seeds differ in scale: every third sample is ten times larger, every fifth all zeros, so that a model whose answers
    depend on the range of a batch is found out.

    Returns:
        Input name -> array [1, ...].

    Raises:
        InferenceError: an input would have more than ``max_values`` values.
    """
    random = np.random.default_rng(seed)
    scale = 0 if seed % 5 == 4 else 10 if seed % 3 == 2 else 1
    arrays, length = {}, sizes.length
    for spec in signature.inputs:
        arrays[spec.name] = _array(spec, length, random, scale, sizes, max_values)
        if None in spec.shape[1:]:
            length = sizes.state
    return arrays


def _array(
    spec: TensorSpec, length: int, random: np.random.Generator, scale: int, sizes: Sizes, max_values: int
) -> Array:
    shape = [length if size is None else size for size in spec.shape]
    if spec.shape and spec.shape[0] is None:
        shape[0] = 1
    if math.prod(shape) > max_values:
        raise InferenceError(
            f"one sample of {spec.name!r} has {math.prod(shape):,} values; {max_values:,} are the limit"
        )
    dtype = dtype_of(spec)
    if spec.datatype == "BYTES":
        texts = [sizes.text_format.format(number) for number in random.integers(0, 100, shape).ravel()]
        return np.array(texts, object).reshape(shape)
    values: Array
    if spec.datatype == "BOOL":
        values = random.integers(0, 2, shape)
    elif spec.datatype == "UINT8":  # most often an image
        values = random.integers(0, 256 if scale != 1 else 64, shape) * min(scale, 1)
    elif dtype.kind in "iu":
        values = random.integers(0, sizes.below, shape) * min(scale, 1)
    else:
        values = random.normal(size=shape) * scale
    return np.asarray(values, dtype)  # numpy draws a scalar as a number, which is no array
