"""Samples as arrays, one per model input, before they are serialised."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.loadtest.errors import SampleError

TensorMetadata = pb.ModelMetadataResponse.TensorMetadata


@dataclass(frozen=True)
class Samples:
    """The samples of a model.

    Attributes:
        inputs: Arrays [samples, ...] by the model's input names.
        source: Where the samples come from, for the report.
        labels: Class indices [samples], where they are known.
    """

    inputs: Mapping[str, tensors.Array]
    source: str
    labels: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def sample_shape(model: str, tensor: TensorMetadata, batch_size: int) -> list[int]:
    """The shape of one sample of an input, without the batch axis.

    Raises:
        SampleError: When the model takes no batch of this size, or an axis other than the first has no fixed size.
    """
    shape = list(tensor.shape)
    if any(length < 0 for length in shape[1:]):
        raise SampleError(
            f"input {tensor.name!r} of {model!r} has the shape {shape}: values can be generated only where "
            "every size but the first is fixed"
        )
    if has_batch_axis(tensor, batch_size):
        return shape[1:]
    if batch_size != 1:
        raise SampleError(f"input {tensor.name!r} of {model!r} has the fixed shape {shape}: --batch-size has to be 1")
    return shape  # The sample is the whole tensor.


def has_batch_axis(tensor: TensorMetadata, batch_size: int) -> bool:
    """Whether the first axis of an input counts samples."""
    return bool(tensor.shape) and tensor.shape[0] in (-1, batch_size)
