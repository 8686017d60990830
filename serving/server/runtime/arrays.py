"""Makes numpy arrays for a model's inputs and outputs: zeros, and random arrays of a given datatype and shape."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

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


def random_batch(signature: Signature, samples: int, seed: int) -> Tensors:
    """Return random values for each input: from 0 to 1, any byte for UINT8, and 0 or 1 for all other datatypes, whose
    values may be indices."""
    generator, batch = np.random.default_rng(seed), {}
    for spec in signature.inputs:
        shape, dtype = shape_of(spec, samples), dtype_of(spec)
        below = 256 if dtype == np.uint8 else 2
        values = generator.random(shape) if dtype.kind == "f" else generator.integers(0, below, shape)
        batch[spec.name] = values.astype(dtype)
    return batch
