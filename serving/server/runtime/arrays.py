"""Makes numpy arrays for a model's inputs and outputs: zeros, and random arrays of a given datatype and shape."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.signature import TensorSpec

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
