"""Make samples of a folder of images, with the preprocessing that the user states."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from hangtag.export.arrays import Array
from hangtag.export.errors import ExportError
from hangtag.serving.server.runtime.arrays import dtype_of
from hangtag.serving.signature import Signature, TensorSpec

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOST = 1_000
"""Of a folder with more images this many are taken, evenly over the sorted names."""
EXAMPLE = '--preprocessing "size=224x224 order=rgb scale=255 mean=0.485,0.456,0.406 std=0.229,0.224,0.225"'
KEYS = ("size", "order", "scale", "mean", "std")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture's pixels, 0 to 255, become numbers: ((pixel / scale) - mean) / std."""

    size: tuple[int, int] | None = None
    """Height and width; None where the model's input has them."""
    order: str = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def parse(cls, text: str) -> "Preprocessing":
        """Read ``size=HEIGHTxWIDTH order=rgb|bgr scale=255 mean=R,G,B std=R,G,B``; what is left out changes nothing.

        Raises:
            ExportError: a key is unknown, or a value is none of its kind.

        Example:
            >>> Preprocessing.parse("order=bgr scale=255 mean=0.5 std=0.5").order
            'bgr'
        """
        parsed = cls()
        for part in text.split():
            key, _, value = part.partition("=")
            try:
                parsed = parsed._with(key, value)
            except ValueError as error:
                raise ExportError(
                    f"--preprocessing: {part!r} is not understood ({error}). For example: {EXAMPLE}"
                ) from error
        return parsed

    def _with(self, key: str, value: str) -> "Preprocessing":
        if key == "size":
            height, width = (int(size) for size in value.split("x"))
            if min(height, width) < 1:
                raise ValueError("a size is at least 1")
            return replace(self, size=(height, width))
        if key == "order" and value in ("rgb", "bgr"):
            return replace(self, order=value)
        numbers = tuple(float(number) for number in value.split(",")) if key in ("scale", "mean", "std") else ()
        if not numbers or len(numbers) not in ((1,) if key == "scale" else (1, 3)) or not np.isfinite(numbers).all():
            raise ValueError(f"expected {', '.join(KEYS)}, each with its value")
        if key == "mean":
            return replace(self, mean=numbers)
        if min(numbers) <= 0:
            raise ValueError(f"{key} must be above 0")
        return replace(self, scale=numbers[0]) if key == "scale" else replace(self, std=numbers)


@dataclass(frozen=True)
class _Layout:
    """Where an image input has its channels, height and width."""

    channels: int
    channels_first: bool | None
    """None for an input without an axis of channels."""
    height: int | None
    width: int | None

    @classmethod
    def of(cls, spec: TensorSpec) -> "_Layout | None":
        """None for an input that is no image: [batch, 1|3, height, width], [batch, height, width, 1|3] or without
        channels."""
        if spec.datatype not in ("UINT8", "FP32", "FP16") or len(spec.shape) not in (3, 4):
            return None
        if len(spec.shape) == 3:
            return cls(1, None, *spec.shape[1:])
        if spec.shape[1] in (1, 3):
            return cls(spec.shape[1], True, *spec.shape[2:])
        return cls(spec.shape[3], False, *spec.shape[1:3]) if spec.shape[3] in (1, 3) else None


def read(folder: Path, signature: Signature, preprocessing: str | None) -> Iterator[Mapping[str, Array]]:
    """Yield each image of the folder and its subfolders, in the order of their names, as the model's input.

    Raises:
        ExportError: the model has no image as its only input, its preprocessing is not stated, or an image cannot be
            read.
    """
    layout = _Layout.of(signature.inputs[0]) if len(signature.inputs) == 1 else None
    if layout is None:
        inputs = ", ".join(map(str, signature.inputs))
        raise ExportError(
            f"{folder} is a folder of images, and the model's inputs ({inputs}) are no single image [batch, 3, height, "
            "width] or [batch, height, width, 3]. Give its inputs in a .npz file."
        )
    (spec,) = signature.inputs
    if preprocessing is None and spec.datatype != "UINT8":
        raise ExportError(
            f"{folder} holds images, and the model's input is {spec}: say how pixels from 0 to 255 become its numbers. "
            f"For example: {EXAMPLE}"
        )
    steps = Preprocessing.parse(preprocessing or "")
    size = _size(layout, steps, spec)
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    for place in np.unique(np.linspace(0, len(files) - 1, min(len(files), MOST)).round().astype(int)).tolist():
        yield {spec.name: _pixels(files[place], layout, steps, size).astype(dtype_of(spec))}


def _size(layout: _Layout, steps: Preprocessing, spec: TensorSpec) -> tuple[int, int]:
    fixed = (layout.height, layout.width)
    size = steps.size or fixed
    height, width = size
    if height is None or width is None:
        raise ExportError(f"the model's input is {spec}: state its size with --preprocessing size=HEIGHTxWIDTH.")
    if any(own not in (None, stated) for own, stated in zip(fixed, size, strict=True)):
        raise ExportError(f"--preprocessing size={height}x{width} does not fit the model's input {spec}.")
    return height, width


def _pixels(file: Path, layout: _Layout, steps: Preprocessing, size: tuple[int, int]) -> Array:
    try:
        with Image.open(file) as image:
            resized = image.convert("L" if layout.channels == 1 else "RGB").resize(
                size[::-1], Image.Resampling.BILINEAR
            )
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise ExportError(f"{file} cannot be read as an image ({error}).") from error
    pixels: Array = np.asarray(resized, np.float32).reshape(*size, layout.channels)
    if steps.order == "bgr":
        pixels = pixels[:, :, ::-1]
    if max(len(steps.mean), len(steps.std)) > layout.channels:
        raise ExportError(f"--preprocessing has 3 means or stds, and the model's input {layout.channels} channel.")
    pixels = (pixels / steps.scale - np.array(steps.mean, np.float32)) / np.array(steps.std, np.float32)
    if layout.channels_first is None:
        pixels = pixels[:, :, 0]
    elif layout.channels_first:
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[None])
