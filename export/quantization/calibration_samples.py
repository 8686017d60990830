"""Read the samples for converting a file, from a .npz file or from a folder of images.

The samples are divided into two halves. One half determines the scales of int8 and the layers that stay in FP32. The
other half tests the converted file.
"""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from hangtag.export.errors import ExportError
from hangtag.export.network_arrays import Array
from hangtag.serving.image_spec import SUFFIXES, ImageSpec
from hangtag.serving.server.runtime.inference_session import dtype_of
from hangtag.serving.signature import Signature, TensorSpec
from hangtag.training.data.reading import prepared

LEAST = 40
"""The least number of samples. Half of the samples test the converted file, and this test needs at least 20 samples."""
MOST_PICTURES = 1_000
"""The largest number of pictures that are read from a folder. They are evenly spaced over the sorted names."""

T = TypeVar("T")
Feed = Mapping[str, Array]
"""Input name -> array, for one run of the model on one sample."""


def making(items: Sequence[T]) -> Sequence[T]:
    """Return the half of the samples that determines the scales of int8 and the layers that stay in FP32.

    The halves are interleaved, because the samples may be sorted by class.
    """
    return items[0::2]


def proof(items: Sequence[T]) -> Sequence[T]:
    """Return the other half of the samples, whose answers decide whether the converted file is published."""
    return items[1::2]


def spread(items: Sequence[T], most: int) -> list[T]:
    """Return at most ``most`` items, evenly spaced, so that a list sorted by class is sampled fairly."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def pictures(given: Path | Sequence[Path]) -> Sequence[Path]:
    """Return the pictures to use: for a .npz file, none; for a folder, at most MOST_PICTURES, evenly spaced by name."""
    if not isinstance(given, Path):
        return given
    files = sorted(file for file in given.rglob("*") if file.suffix.lower() in SUFFIXES) if given.is_dir() else []
    return spread(files, MOST_PICTURES)


def read(given: Path | Sequence[Path], signature: Signature) -> Sequence[Feed]:
    """Read samples for a model, in the order of their file.

    Args:
        given: a .npz file with an array for each input; or, for a model whose only input is a picture, a folder of
            pictures, or the paths of pictures. The first axis of an array counts samples: [n, ...] for an input [batch,
            ...]; for an input without a batch axis, the array has an additional axis. A scalar input may also have one
            value for all samples.

    Raises:
        ExportError: One of: the file or folder does not exist; the samples do not fit the model; they are too few.
        DataCorruptError: a picture cannot be read.
    """
    shown = given if isinstance(given, Path) else "--data"
    if isinstance(given, Path) and not given.is_dir():
        feeds = list(_from_npz(given, signature))
    else:
        feeds = list(_from_pictures(pictures(given), shown, signature))
    if len(feeds) < LEAST:
        raise ExportError(
            f"{shown} holds {len(feeds)} sample{'s' if len(feeds) != 1 else ''}; at least {LEAST} are needed. Half of "
            "the samples are used to convert the file, and the other half to test it. Several hundred are better."
        )
    return feeds


def _from_pictures(files: Sequence[Path], shown: object, signature: Signature) -> Iterator[Feed]:
    """Yield each picture as the model's input."""
    image = signature.image or _own_image(signature)
    if image is None:
        inputs = ", ".join(map(str, signature.inputs))
        raise ExportError(
            f"{shown} is a folder of pictures, but the model has other inputs ({inputs}) than one picture, UINT8 "
            "[batch, height, width] or [batch, height, width, 3]. State with --preprocessing how pixels become the "
            "input's numbers, or give the inputs in a .npz file."
        )
    for file in files:
        yield {signature.inputs[0].name: prepared(file, image)[None]}


def _own_image(signature: Signature) -> ImageSpec | None:
    """Return an image description, with fit stretch, for a model that accepts pictures but has no description."""
    if len(signature.inputs) == 1:
        match signature.inputs[0].datatype, signature.inputs[0].shape:
            case ["UINT8", [_, int(height), int(width)]]:
                return ImageSpec(height, width)
            case ["UINT8", [_, int(height), int(width), 3]]:
                return ImageSpec(height, width, channels=3)
    return None


def _from_npz(path: Path, signature: Signature) -> Iterator[Feed]:
    arrays = _load(path)
    expected = {spec.name for spec in signature.inputs}
    if set(arrays) != expected:
        raise ExportError(
            f"{path} holds arrays named {', '.join(sorted(arrays)) or 'nothing'}; the model's inputs are "
            f"{', '.join(map(str, signature.inputs))}. Write it with: numpy.savez(FILE, "
            f"{', '.join(f'{name}=...' for name in sorted(expected))})"
        )
    columns = {spec.name: _column(arrays[spec.name], spec, path) for spec in signature.inputs}
    counts = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(counts.values())) != 1:
        sizes = ", ".join(f"{count} rows in {name}" for name, count in counts.items())
        raise ExportError(f"{path}: every array needs one row per sample, but there are {sizes or 'only scalars'}.")
    for place in range(next(iter(counts.values()))):
        yield {name: arrays[name] if column is None else column[place] for name, column in columns.items()}


def _load(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as stream:  # numpy would leave a damaged file open
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.lib.npyio.NpzFile):
                return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise ExportError(f"there is no file or folder {path}.") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ExportError(f"{path} cannot be read as a .npz file of numbers and texts.") from error
    raise ExportError(
        f"{path} is one array without a name. Write it with numpy.savez, each array named after its input."
    )


def _column(array: Array, spec: TensorSpec, path: Path) -> Sequence[Array] | None:
    """Return the input's array for each sample, or None if the array is a single value, which all samples share."""
    array = _as_type(array, spec, path)
    if not spec.shape and not array.shape:
        return None
    rank = len(spec.shape)
    rows: Sequence[Array]
    if array.ndim == rank + 1:
        rows = [np.asarray(row) for row in array]
    elif array.ndim == rank and spec.shape[0] in (None, 1):
        rows = [array[place : place + 1] for place in range(len(array))]
    else:
        raise _misfit(array, spec, path)
    if rows and any(size not in (None, own) for size, own in zip(spec.shape, rows[0].shape, strict=True)):
        raise _misfit(array, spec, path)
    return rows


def _as_type(array: Array, spec: TensorSpec, path: Path) -> Array:
    if spec.datatype == "BYTES":
        if array.dtype.kind in "US":
            return array.astype(object)
    elif np.can_cast(array.dtype, dtype_of(spec), "same_kind"):
        converted: Array = array.astype(dtype_of(spec))
        if converted.dtype.kind == "f" and not np.isfinite(converted).all():
            raise ExportError(f"{path}: the array {spec.name!r} holds NaN or infinity.")
        return converted
    raise ExportError(f"{path}: the array {spec.name!r} is {array.dtype}; the model's input is {spec}.")


def _misfit(array: Array, spec: TensorSpec, path: Path) -> ExportError:
    return ExportError(
        f"{path}: the array {spec.name!r} has shape {list(array.shape)}, but the model's input {spec} needs one sample "
        "per row."
    )
