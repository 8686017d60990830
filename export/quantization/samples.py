"""Read the samples by which a file is converted: from a .npz file, or from a folder of images.

Two halves: by one the converted file is calibrated and its layers in FP32 chosen, and by the other it is proven.
So what judges the file has had no influence on it, with one exception: fp16 leaves in FP32 what overflows for
any sample, since its answers on a CPU would not show that.
"""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from hangtag.export.arrays import Array
from hangtag.export.errors import ExportError
from hangtag.serving.image_spec import SUFFIXES, ImageSpec
from hangtag.serving.server.runtime.arrays import dtype_of
from hangtag.serving.signature import Signature, TensorSpec
from hangtag.training.data.reading import prepared

LEAST = 40
"""Samples needed: with fewer, the half that proves says too little."""
_LARGEST_CALIBRATION = 256
MOST_PICTURES = 1_000
"""Of a folder with more pictures this many are taken, evenly over the sorted names."""

T = TypeVar("T")
Feed = Mapping[str, Array]
"""Input name -> array, for one run of the model on one sample."""


@dataclass(frozen=True)
class Samples:
    """Samples in the order of their file; the halves are interleaved, so that an order by classes does no harm."""

    feeds: Sequence[Feed]

    @property
    def making(self) -> Sequence[Feed]:
        """The half by whose answers the layers that stay in FP32 are chosen."""
        return self.feeds[0::2]

    @property
    def calibration(self) -> Sequence[Feed]:
        """Of that half, 256 at most: their activations set the scales of int8."""
        return spread(self.making, _LARGEST_CALIBRATION)

    @property
    def proof(self) -> Sequence[Feed]:
        """The half that chose nothing before: their answers decide whether the file is published."""
        return self.feeds[1::2]


def spread(items: Sequence[T], most: int) -> list[T]:
    """Return so many of the items at most, at equal distances, so that an order by classes does no harm."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def read(given: Path | Sequence[str], signature: Signature) -> Samples:
    """Read samples for a model.

    Args:
        given: a .npz file with an array for each input; or, for a model with one picture as its input, a folder of
            pictures, or their paths. The arrays' first axis is the sample: [n, ...] for an input [batch, ...], or one
            axis more than an input without a batch axis has. A scalar input may also have one value for all samples.

    Raises:
        ExportError: there is no such file or folder, the samples do not fit the model, or they are too few.
        DataCorruptError: a picture cannot be read.
    """
    shown, feeds = given if isinstance(given, Path) else "--data", list[Feed]()
    if not isinstance(given, Path):
        feeds += _from_pictures([Path(file) for file in given], shown, signature)
    elif given.is_dir():
        files = files_in(given)
        places = np.linspace(0, len(files) - 1, min(len(files), MOST_PICTURES)).round().astype(int)
        feeds += _from_pictures([files[place] for place in np.unique(places).tolist()], shown, signature)
    else:
        feeds += _from_npz(given, signature)
    if len(feeds) < LEAST:
        raise ExportError(
            f"{shown} holds {len(feeds)} sample{'s' if len(feeds) != 1 else ''}; at least {LEAST} are needed, of which "
            "half calibrates and chooses the layers, and half proves. Several hundred prove more."
        )
    return Samples(feeds)


def _from_pictures(files: Sequence[Path], shown: object, signature: Signature) -> Iterator[Feed]:
    """Yield each picture as the model's input."""
    image = signature.image or _own_image(signature)
    if image is None:
        inputs = ", ".join(map(str, signature.inputs))
        raise ExportError(
            f"{shown} is a folder of pictures, and the model's inputs ({inputs}) are no single picture UINT8 [batch, "
            "height, width] or [batch, height, width, 3]. Say with --preprocessing how pixels become its numbers, or "
            "give its inputs in a .npz file."
        )
    for file in files:
        yield {signature.inputs[0].name: prepared(file, image)[None]}


def files_in(folder: Path) -> list[Path]:
    """The pictures of a folder and its subfolders, by name."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


def _own_image(signature: Signature) -> ImageSpec | None:
    """Of a model that takes pictures and does not say how they are made to fit: they are stretched."""
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
        sizes = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ExportError(f"{path}: every array must have one row a sample; there are {sizes or 'scalars alone'}.")
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
        reason = " ".join(str(error).split())
        raise ExportError(f"{path} cannot be read as a .npz file of numbers and texts ({reason}).") from error
    raise ExportError(f"{path} is one array without a name. Write it with numpy.savez, inputs by name.")


def _column(array: Array, spec: TensorSpec, path: Path) -> Sequence[Array] | None:
    """What the input gets for each sample; None for a scalar that is the same for all."""
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
        f"{path}: the array {spec.name!r} has shape {list(array.shape)}, which is no row of samples for the model's "
        f"input {spec}."
    )
