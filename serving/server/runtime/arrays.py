"""What numpy makes of an input's or output's datatype and shape, as ONNX Runtime takes it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.signature import TensorSpec

# ONNX Runtime's dtype for each datatype; every other datatype is numpy's own name in lower case.
_DTYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object"}


def dtype_of(spec: TensorSpec) -> np.dtype[Any]:
    """What numpy calls the datatype of an input or output."""
    return np.dtype(_DTYPES.get(spec.datatype, spec.datatype.lower()))


def zeros(spec: TensorSpec, batch_size: int) -> npt.NDArray[Any]:
    """Zeros, or empty strings, of this shape: batch_size along a free first axis, 1 along every other free one."""
    shape = [1 if size is None else size for size in spec.shape]
    if spec.shape and spec.shape[0] is None:
        shape[0] = batch_size
    dtype = dtype_of(spec)
    return np.full(shape, "", dtype) if spec.datatype == "BYTES" else np.zeros(shape, dtype)
