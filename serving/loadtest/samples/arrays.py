"""Samples before they are serialised: one array an input."""

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
    """Arrays [samples, ...] by the model's input names; labels [samples] where they are known.

    source: where they come from, for the report.
    """

    inputs: Mapping[str, tensors.Array]
    source: str
    labels: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def sample_shape(model: str, tensor: TensorMetadata, batch_size: int) -> list[int]:
    """The shape of one sample of an input, that is, without its batch axis.

    Raises SampleError when the model takes no batch of this size, or when its shape leaves a size open that is not the
    batch's.
    """
    shape = list(tensor.shape)
    if any(length < 0 for length in shape[1:]):
        raise SampleError(
            f"input {tensor.name!r} of {model!r} has the shape {shape}: values can be made up only where "
            "every size but the first is fixed"
        )
    if has_batch_axis(tensor, batch_size):
        return shape[1:]
    if batch_size != 1:
        raise SampleError(f"input {tensor.name!r} of {model!r} has the fixed shape {shape}: --batch-size has to be 1")
    return shape  # The sample is the whole tensor.


def has_batch_axis(tensor: TensorMetadata, batch_size: int) -> bool:
    """Whether the first axis counts samples."""
    return bool(tensor.shape) and tensor.shape[0] in (-1, batch_size)
