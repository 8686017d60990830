"""Samples made up from a model's metadata."""

import math

import numpy as np

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.loadtest.errors import SampleError
from hangtag.serving.loadtest.samples.arrays import Samples, TensorMetadata, sample_shape


def generate(
    metadata: pb.ModelMetadataResponse, count: int, batch_size: int, random: np.random.Generator, most_bytes: int
) -> Samples:
    """`count` samples of random values, or fewer where they would take more than `most_bytes`, but one batch at least.

    Raises SampleError.
    """
    shapes = {tensor.name: sample_shape(metadata.name, tensor, batch_size) for tensor in metadata.inputs}
    one = [_random(tensor, 1, shapes[tensor.name], random) for tensor in metadata.inputs]
    size = max(sum(len(tensors.to_raw(array)) for array in one), 1)
    count = max(min(count, most_bytes // size), batch_size)
    inputs = {tensor.name: _random(tensor, count, shapes[tensor.name], random) for tensor in metadata.inputs}
    told = ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in metadata.inputs)
    return Samples(inputs, f"random values for {told}")


def _random(tensor: TensorMetadata, count: int, sample: list[int], random: np.random.Generator) -> tensors.Array:
    datatype, shape = tensor.datatype, [count, *sample]
    if datatype == "BYTES":
        words = [random.bytes(6).hex().encode() for _ in range(math.prod(shape))]
        return np.array(words, np.object_).reshape(shape)
    dtype = tensors.DTYPES.get(datatype)
    if dtype is None:
        raise SampleError(f"values of datatype {datatype!r} cannot be made up")
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    # Wider integers are mostly indices, for example into a vocabulary: small ones are the most likely to be valid.
    return random.integers(0, 256 if datatype == "UINT8" else 128, shape).astype(dtype)
