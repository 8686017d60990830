"""Reads samples from an .npz file, or generates random samples. Each input of the model has an array."""

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hangtag.printable import named
from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.loadtest.errors import LoadTestError
from hangtag.serving.loadtest.sut import Description

TensorMetadata = pb.ModelMetadataResponse.TensorMetadata


@dataclass(frozen=True)
class Samples:
    """The samples of a model."""

    inputs: Mapping[str, tensors.Array]  # Arrays [samples, ...] by the names of the model's inputs.
    source: str  # The source of the samples, for the report.
    labels: npt.NDArray[np.int64] | None = None  # The class indices [samples], if known.
    # The digests by which a model's file may identify the data set, if these samples are its whole test set.
    data_digests: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def described(tensor: TensorMetadata) -> str:
    """Return a tensor's datatype and shape, such as UINT8 [any, 28, 28]."""
    return f"{tensor.datatype} [{', '.join('any' if size < 0 else str(size) for size in tensor.shape)}]"


def sample_shape(model: str, tensor: TensorMetadata, batch_size: int) -> list[int]:
    """Return the shape of one sample of an input, without the batch axis.

    Raises LoadTestError if the model does not accept batches of this size, or if an axis after the first has no fixed
    size.
    """
    shape = list(tensor.shape)
    if any(length < 0 for length in shape[1:]):
        raise LoadTestError(
            f"input {tensor.name!r} of {model!r} is {described(tensor)}, but values can be generated only if every "
            "size except for the first is fixed"
        )
    if has_batch_axis(tensor, batch_size):
        return shape[1:]
    if batch_size != 1:
        raise LoadTestError(f"input {tensor.name!r} of {model!r} has the fixed shape {shape}: --batch-size must be 1")
    return shape  # The model has no batch axis, so the whole tensor is one sample.


def has_batch_axis(tensor: TensorMetadata, batch_size: int) -> bool:
    """Return whether the first axis of an input is the batch axis."""
    return bool(tensor.shape) and tensor.shape[0] in (-1, batch_size)


def generate(
    metadata: pb.ModelMetadataResponse, count: int, batch_size: int, random: np.random.Generator, max_bytes: int
) -> Samples:
    """Generate `count` samples, or fewer if `count` samples would exceed `max_bytes`, but at least one batch.

    Raises:
        LoadTestError: Values of a datatype or shape of the model's inputs cannot be generated.
    """
    shapes = {tensor.name: sample_shape(metadata.name, tensor, batch_size) for tensor in metadata.inputs}
    sample = [_random(tensor, 1, shapes[tensor.name], random) for tensor in metadata.inputs]
    sample_bytes = max(sum(len(tensors.to_raw(array)) for array in sample), 1)
    count = max(min(count, max_bytes // sample_bytes), batch_size)
    inputs = {tensor.name: _random(tensor, count, shapes[tensor.name], random) for tensor in metadata.inputs}
    text = ", ".join(f"{tensor.name} {described(tensor)}" for tensor in metadata.inputs)
    return Samples(inputs, f"random values for {text}")


def _random(tensor: TensorMetadata, count: int, sample: list[int], random: np.random.Generator) -> tensors.Array:
    datatype, shape = tensor.datatype, [count, *sample]
    if datatype == "BYTES":
        words = [random.bytes(6).hex().encode() for _ in range(math.prod(shape))]
        return np.array(words, np.object_).reshape(shape)
    dtype = tensors.DTYPES.get(datatype)
    if dtype is None:
        raise LoadTestError(f"values of datatype {datatype!r} cannot be generated")
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    # Integers of more than 8 bits are mostly indices, for example into a vocabulary, so small values are likely valid.
    return random.integers(0, 256 if datatype == "UINT8" else 128, shape).astype(dtype)


IMAGES, LABELS = "images", "labels"


def read_npz(description: Description, file: Path, batch_size: int) -> Samples:
    """Read a file's arrays [samples, ...], which have the names of the model's inputs.

    If the model has a single input, the array may also have the name ``images``. The array ``labels``, if there is one,
    contains numbers or names of the model's labels.

    Raises:
        LoadTestError: If the file cannot be read, if the arrays do not match the model's inputs, or if their lengths
            differ.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except OSError as error:
        raise LoadTestError(f"{file} cannot be read: {error.strerror or error}") from error
    except (EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
        # numpy's message is not shown, because it suggests allowing pickles
        raise LoadTestError(
            f"{file} is not an .npz file of numbers. Choose a folder, or a file that numpy.savez has written"
        ) from error
    inputs, metadata = {}, description.metadata
    if len(metadata.inputs) == 1 and IMAGES in arrays:
        arrays.setdefault(metadata.inputs[0].name, arrays[IMAGES])
    for tensor in metadata.inputs:
        array, shape = arrays.get(tensor.name), sample_shape(metadata.name, tensor, batch_size)
        if array is None or list(array.shape[1:]) != shape or _datatype(array) != tensor.datatype:
            raise LoadTestError(
                f"{file} has the arrays {_listed(arrays)}, but model {metadata.name!r} needs {tensor.name!r} as "
                f"{tensor.datatype} [{', '.join(['samples', *map(str, shape)])}]"
            )
        inputs[tensor.name] = array
    labels = arrays.get(LABELS)
    columns = inputs if labels is None else {**inputs, LABELS: labels}
    lengths = {array.shape[:1] for array in columns.values()}
    are_labels = labels is None or (labels.ndim == 1 and labels.dtype.kind in "iuU")
    if len(lengths) != 1 or lengths & {(), (0,)} or not are_labels:
        raise LoadTestError(
            f"{file} must have the same number of samples for each input, at least 1, and in 'labels' a whole number "
            f"or a name for each sample, but has {_listed(columns)}"
        )
    if labels is not None and labels.dtype.kind == "U":
        labels = numbers_of(labels.tolist(), description, file)
    samples = Samples(inputs, "", None if labels is None else labels.astype(np.int64))
    return replace(samples, source=f"{len(samples):,} samples from {file}")


def _listed(arrays: Mapping[str, tensors.Array]) -> str:
    texts = (f"{name} {array.dtype} {list(array.shape)}" for name, array in sorted(arrays.items()))
    return ", ".join(texts) or "(none)"


def _datatype(array: tensors.Array) -> str:
    try:
        return tensors.datatype_of(array)
    except ValueError:
        return ""


def numbers_of(labels: Sequence[str], description: Description, source: Path) -> npt.NDArray[np.int64]:
    """Return the number of each label [samples]. Raises LoadTestError for a label that the model does not have."""
    try:
        listed = json.loads(description.parameters["hangtag.labels"])
        known = {str(label): number for number, label in enumerate(listed)}
    except (KeyError, ValueError, TypeError):
        known = {}
    unknown = sorted(set(labels) - known.keys())
    if unknown:
        theirs = f"the labels {named(list(known))}" if known else "no labels that the server reports"
        raise LoadTestError(f"{source} has the labels {named(unknown)}, but model {description.model!r} has {theirs}")
    return np.array([known[label] for label in labels], np.int64)
