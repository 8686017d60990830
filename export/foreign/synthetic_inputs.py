"""Generate random inputs for any signature, by datatype and shape alone."""

import math
from collections.abc import Mapping

import numpy as np

from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.arrays import Array, dtype_of
from hangtag.serving.signature import Signature, TensorSpec

INTEGER_LIMITS = (10, 2)
"""Integers are drawn below these, in turn: they may be indices into a table of unknown length."""

MAX_VALUES = 2**26
"""The largest input that one sample may have: a file may declare axes for which no machine has memory."""


def sample(signature: Signature, length: int, seed: int, below: int) -> Mapping[str, Array]:
    """Generate one sample.

    Seeds differ in scale: every third sample is ten times larger, every fifth all zeros, so that a model whose answers
    depend on the range of a batch is found out.

    Args:
        length: the size of free axes other than the first.
        below: integers are drawn from 0 up to this, exclusive.

    Returns:
        Input name -> array [1, ...].

    Raises:
        InferenceError: an input would have more than MAX_VALUES values.
    """
    random = np.random.default_rng(seed)
    scale = 0 if seed % 5 == 4 else 10 if seed % 3 == 2 else 1
    return {spec.name: _array(spec, length, random, scale, below) for spec in signature.inputs}


def _array(spec: TensorSpec, length: int, random: np.random.Generator, scale: int, below: int) -> Array:
    shape = [length if size is None else size for size in spec.shape]
    if spec.shape and spec.shape[0] is None:
        shape[0] = 1
    if math.prod(shape) > MAX_VALUES:
        raise InferenceError(
            f"one sample of {spec.name!r} has {math.prod(shape):,} values; {MAX_VALUES:,} are the limit"
        )
    dtype = dtype_of(spec)
    if spec.datatype == "BYTES":
        return np.array([f"text {number}" for number in random.integers(0, 100, shape).ravel()], object).reshape(shape)
    if spec.datatype == "BOOL":
        return random.integers(0, 2, shape).astype(dtype)
    if spec.datatype == "UINT8":  # most often an image
        return (random.integers(0, 256 if scale != 1 else 64, shape) * min(scale, 1)).astype(dtype)
    if dtype.kind in "iu":
        return (random.integers(0, below, shape) * min(scale, 1)).astype(dtype)
    return np.asarray(random.normal(size=shape) * scale).astype(dtype)
