"""numpy arrays that fit a model's inputs and outputs, as ONNX Runtime takes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.signature import TensorSpec

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

# ONNX Runtime's dtype for each datatype; every other datatype is numpy's own name in lower case.
_DTYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object"}


def dtype_of(spec: TensorSpec) -> np.dtype[Any]:
    """numpy's dtype for the datatype of an input or output."""
    return np.dtype(_DTYPES.get(spec.datatype, spec.datatype.lower()))


def shape_of(spec: TensorSpec, samples: int) -> tuple[int, ...]:
    """The shape of a batch; for an input or output of which the first axis alone is free."""
    return (samples, *(size or 1 for size in spec.shape[1:]))


def zeros(spec: TensorSpec, batch_size: int) -> Array:
    """Zeros: batch_size along a free first axis, 1 along every other free axis.

    A string is "0", because a model may read numbers from strings, and fails on an empty one.
    """
    shape = [1 if size is None else size for size in spec.shape]
    if spec.shape and spec.shape[0] is None:
        shape[0] = batch_size
    dtype = dtype_of(spec)
    return np.full(shape, "0", dtype) if spec.datatype == "BYTES" else np.zeros(shape, dtype)


def random_rows(shape: Sequence[int], dtype: np.dtype[Any], seed: int) -> Array:
    """Random values: any byte for uint8, 0 to 1 for real numbers, 0 or 1 elsewhere, because it may be an index."""
    generator = np.random.default_rng(seed)
    if dtype.kind == "f":
        return generator.random(shape).astype(dtype)
    return generator.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)


def pad(target: Array, rows: Array) -> None:
    """Write rows, at least one, to the beginning of the target and repeat the last row to its end.

    A row of the caller is repeated, because a model may refuse other values, such as an index that is out of range.
    """
    count = len(rows)
    target[:count] = rows
    target[count:] = rows[-1]
