"""Make samples of a folder of pictures, as the model's file says how a picture becomes its input."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from hangtag.export.arrays import Array
from hangtag.export.errors import ExportError
from hangtag.serving.image_spec import SUFFIXES, ImageSpec
from hangtag.serving.signature import Signature
from hangtag.training.data.pictures import prepared

MOST = 1_000
"""Of a folder with more pictures this many are taken, evenly over the sorted names."""


def read(folder: Path, signature: Signature) -> Iterator[Mapping[str, Array]]:
    """Yield each picture of the folder and its subfolders, in the order of their names, as the model's input.

    Raises:
        ExportError: the model does not take a picture as its only input.
        DataCorruptError: a picture cannot be read.
    """
    image = signature.image or _own_image(signature)
    if image is None:
        inputs = ", ".join(map(str, signature.inputs))
        raise ExportError(
            f"{folder} is a folder of pictures, and the model's inputs ({inputs}) are no single picture UINT8 [batch, "
            "height, width] or [batch, height, width, 3]. Say with --preprocessing how pixels become its numbers, or "
            "give its inputs in a .npz file."
        )
    files = files_in(folder)
    for place in np.unique(np.linspace(0, len(files) - 1, min(len(files), MOST)).round().astype(int)).tolist():
        yield {signature.inputs[0].name: prepared(files[place], image)[None]}


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
