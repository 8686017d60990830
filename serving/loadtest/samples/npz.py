"""Reads samples from a numpy .npz file: one array per model input, and optionally `labels`."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.loadtest.errors import SampleError
from hangtag.serving.loadtest.samples.arrays import Samples, sample_shape
from hangtag.serving.loadtest.samples.image_folder import labels_of, require_known

IMAGES, LABELS = "images", "labels"


def read_npz(metadata: pb.ModelMetadataResponse, file: Path, batch_size: int, parameters: Mapping[str, str]) -> Samples:
    """Read the file's arrays [samples, ...], named as the model's inputs; ``images`` for a model's only input.

    Args:
        metadata: The model's metadata from its server.
        file: An .npz file. Its ``labels``, if it has any, are the model's numbers or names of them.
        batch_size: Samples per request.
        parameters: Of the model's configuration, which have the labels' names.

    Raises:
        SampleError: When the file cannot be read, or its arrays do not fit the model or each other.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except OSError as error:
        raise SampleError(f"{file} cannot be read: {error.strerror or error}") from error
    except (
        EOFError,
        ValueError,
        TypeError,
        zipfile.BadZipFile,
    ) as error:  # not numpy's message: it suggests to allow pickles
        raise SampleError(
            f"{file} is no .npz file of numbers: name a folder, or a file that numpy.savez has written"
        ) from error
    inputs = {}
    if len(metadata.inputs) == 1 and IMAGES in arrays:
        arrays.setdefault(metadata.inputs[0].name, arrays[IMAGES])
    for tensor in metadata.inputs:
        if tensor.name not in arrays:
            raise SampleError(
                f"{file} holds {', '.join(sorted(arrays)) or 'nothing'}; model {metadata.name!r} takes {tensor.name!r}"
            )
        array = arrays[tensor.name]
        shape = sample_shape(metadata.name, tensor, batch_size)
        if array.ndim < 1 or list(array.shape[1:]) != shape or _datatype(array) != tensor.datatype:
            raise SampleError(
                f"{tensor.name!r} in {file} is {array.dtype} {list(array.shape)}; model {metadata.name!r} takes "
                f"{tensor.datatype} [{', '.join(['samples', *map(str, shape)])}]"
            )
        inputs[tensor.name] = array
    counts = {name: len(array) for name, array in inputs.items()}
    labels = arrays.get(LABELS)
    if labels is not None:
        counts[LABELS] = len(labels)
    if len(set(counts.values())) != 1 or not all(counts.values()):
        raise SampleError(f"{file} has to hold equally many samples of each, and one at least, not {counts}")
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iuU"):
        raise SampleError(
            f"'labels' in {file} has to be one whole number or name a sample, not {labels.dtype} {labels.shape}"
        )
    if labels is not None and labels.dtype.kind == "U":
        numbers = {label: number for number, label in enumerate(labels_of(parameters))}
        require_known(labels.tolist(), numbers, metadata.name, file)
        labels = np.array([numbers[label] for label in labels.tolist()])
    source = f"{len(next(iter(inputs.values()))):,} samples from {file}"
    return Samples(inputs, source, None if labels is None else labels.astype(np.int64))


def _datatype(array: tensors.Array) -> str:
    try:
        return tensors.datatype_of(array)
    except ValueError:
        return ""
