"""Makes numpy arrays for a model's inputs and outputs: zeros, and random arrays of a given datatype and shape."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.server.errors import InferenceError
from hangtag.serving.signature import Signature, TensorSpec

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

# ONNX Runtime's dtypes of some datatypes. Every other datatype in lower case is numpy's name of its dtype.
_DTYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object"}


def dtype_of(spec: TensorSpec) -> np.dtype[Any]:
    """Return numpy's dtype for the datatype of an input or output."""
    return np.dtype(_DTYPES.get(spec.datatype, spec.datatype.lower()))


def shape_of(spec: TensorSpec, samples: int) -> tuple[int, ...]:
    """Return the shape of a batch, with size 1 along every free axis after the first."""
    return tuple((1 if place else samples) if size is None else size for place, size in enumerate(spec.shape))


def zeros(spec: TensorSpec, batch_size: int) -> Array:
    """Return zeros, with size batch_size along a free first axis and 1 along every other free axis. A string is "0",
    because a model may read numbers from strings."""
    shape, dtype = shape_of(spec, batch_size), dtype_of(spec)
    return np.full(shape, "0", dtype) if spec.datatype == "BYTES" else np.zeros(shape, dtype)


def random_rows(shape: Sequence[int], dtype: np.dtype[Any], seed: int) -> Array:
    """Return random values: from 0 to 1, any byte for uint8, and 0 or 1 for all other types, whose values may be
    indices."""
    generator = np.random.default_rng(seed)
    if dtype.kind == "f":
        return generator.random(shape).astype(dtype)
    return generator.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)


def random_sample(
    signature: Signature, lengths: tuple[int, int], below: int, text_format: str, seed: int, max_values: int
) -> Mapping[str, Array]:
    """Generate the sample number ``seed``: for each input an array [1, ...]. Raises InferenceError if an input would
    have more than ``max_values`` values.

    ``lengths`` are the sizes of the free axes after the first axis: in the first input with such axes, and in later
    inputs. Integers are drawn from 0 up to ``below``, exclusive, and ``text_format`` makes a string from a number.
    Every third sample is ten times larger and every fifth is all zeros, to expose a model that answers a sample
    differently if its batch has larger values.
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
        arrays[spec.name] = np.asarray(values, dtype)  # numpy draws a scalar as a number, not as an array
    return arrays
