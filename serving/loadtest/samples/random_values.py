"""Generates random samples that fit a model's metadata."""

import math

import numpy as np

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.loadtest.errors import SampleError
from hangtag.serving.loadtest.samples.arrays import Samples, TensorMetadata, sample_shape


def generate(
    metadata: pb.ModelMetadataResponse, count: int, batch_size: int, random: np.random.Generator, max_bytes: int
) -> Samples:
    """Generate `count` samples, or fewer where they would exceed `max_bytes`, but at least one batch.

    Raises:
        SampleError: When a datatype or shape of the model's inputs cannot be generated.
    """
    shapes = {tensor.name: sample_shape(metadata.name, tensor, batch_size) for tensor in metadata.inputs}
    sample = [_random(tensor, 1, shapes[tensor.name], random) for tensor in metadata.inputs]
    sample_bytes = max(sum(len(tensors.to_raw(array)) for array in sample), 1)
    count = max(min(count, max_bytes // sample_bytes), batch_size)
    inputs = {tensor.name: _random(tensor, count, shapes[tensor.name], random) for tensor in metadata.inputs}
    text = ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in metadata.inputs)
    return Samples(inputs, f"random values for {text}")


def _random(tensor: TensorMetadata, count: int, sample: list[int], random: np.random.Generator) -> tensors.Array:
    datatype, shape = tensor.datatype, [count, *sample]
    if datatype == "BYTES":
        words = [random.bytes(6).hex().encode() for _ in range(math.prod(shape))]
        return np.array(words, np.object_).reshape(shape)
    dtype = tensors.DTYPES.get(datatype)
    if dtype is None:
        raise SampleError(f"values of datatype {datatype!r} cannot be generated")
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    # Wider integers are mostly indices, for example into a vocabulary, so small values are the most likely to be valid.
    return random.integers(0, 256 if datatype == "UINT8" else 128, shape).astype(dtype)
