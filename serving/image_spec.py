"""How a picture becomes a model's input.

The trainer, the server and the load test prepare pictures only with this module, so that their pixels are equal.

A model's file holds the image description as ``hangtag.image``, a JSON object with the fields of :class:`ImageSpec`.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFilter, ImageOps, UnidentifiedImageError

from hangtag.errors import reason

FITS = ("stretch", "crop", "pad", "garment")
"""Ways to resize a picture to the model's input: change its proportions, crop its longer edge, pad its shorter edge, or
convert it as the authors of Fashion-MNIST converted their photos."""
MAX_EDGE = 4_096
"""The largest height and width of a model's input, in pixels."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""The suffixes of picture files in the formats that the server decodes. Every command accepts these files."""

_FORMATS = ("PNG", "JPEG", "WEBP")
_BEGINNING = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP", re.DOTALL)
DAMAGED = "cannot be decoded and seems damaged: "
THUMBNAIL_EDGE = 73
"""``--fit garment`` first scales the longer edge down to this many pixels, the height of Fashion-MNIST's thumbnails."""
BACKGROUND_TOLERANCE = 0.05 * 255
"""The least contrast between a garment and its background: 5 % of the maximum, the value of Fashion-MNIST's authors."""

Pixels = npt.NDArray[np.uint8]  # [height, width] or [height, width, 3]


class ImageSpecError(ValueError):
    """An image description is malformed."""


class PictureError(ValueError):
    """A file cannot be read as a picture."""


@dataclass(frozen=True)
class ImageSpec:
    """The description of the pictures that a model accepts.

    Attributes:
        height: The height of the model's input, in pixels.
        width: The width of the model's input, in pixels.
        channels: 1 for grey pictures, UINT8 [batch, height, width]; 3 for colour, UINT8 [batch, height, width, 3].
        mean: The mean that the graph subtracts from pixels scaled to 0 to 1: one number, or a number for each channel.
        std: The standard deviation by which the graph then divides the result.
        fit: The way to resize a picture of another size, one of FITS. A picture of the right size is used unchanged.

    Raises:
        ImageSpecError: A value is out of range.

    Example:
        >>> ImageSpec(64, 64, channels=3, fit="crop").shape
        (64, 64, 3)
    """

    height: int
    width: int
    channels: int = 1
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    fit: str = "stretch"

    def __post_init__(self) -> None:
        for name, value in (("height", self.height), ("width", self.width)):
            if type(value) is not int or not 1 <= value <= MAX_EDGE:
                raise ImageSpecError(f"{name} must be a whole number from 1 to {MAX_EDGE:,}, not {value!r}")
        if self.channels not in (1, 3):
            raise ImageSpecError(f"channels must be 1 (grey) or 3 (colour), not {self.channels!r}")
        if self.fit not in FITS:
            raise ImageSpecError(f"fit must be one of {', '.join(FITS)}, not {self.fit!r}")
        if self.fit == "garment" and self.channels == 3:
            raise ImageSpecError("fit garment is for grey pictures; use stretch, crop or pad for colour")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) not in (1, self.channels):
                raise ImageSpecError(f"{name} must be one number, or one for each of the {self.channels} channels")
            if not all(is_number(value) and (name == "mean" or value > 0) for value in values):
                raise ImageSpecError(f"{name} must hold finite numbers{', above 0' if name == 'std' else ''}")

    @classmethod
    def parse(cls, text: str) -> "ImageSpec":
        """Read the value of ``hangtag.image``. Raises ImageSpecError if the text is not JSON, or if ``of`` rejects
        the value."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ImageSpecError("the text is not JSON") from error
        return cls.of(value)

    @classmethod
    def of(cls, value: object) -> "ImageSpec":
        """Build a description from the object that ``as_json`` returns. Raises ImageSpecError if a field is missing,
        unknown or out of range."""
        known = {one.name for one in fields(cls)}
        if not isinstance(value, Mapping) or not {"height", "width"} <= set(value) <= known:
            raise ImageSpecError(f"height and width are required; the known keys are {', '.join(sorted(known))}")
        arguments: dict[str, Any] = {
            key: tuple(each) if isinstance(each, list) else each for key, each in value.items()
        }
        return cls(**arguments)

    def as_json(self) -> dict[str, Any]:
        """Return the description as a JSON object."""
        return {key: list(item) if isinstance(item, tuple) else item for key, item in asdict(self).items()}

    def __str__(self) -> str:
        """Return a text for people, such as "64x64 pixels, colour, crop"."""
        return f"{self.height}x{self.width} pixels, {'colour' if self.channels == 3 else 'grey'}, {self.fit}"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one picture: (height, width), or (height, width, 3)."""
        return (self.height, self.width) if self.channels == 1 else (self.height, self.width, self.channels)

    def read(self, file: Path) -> Pixels:
        """Read a user's PNG, JPEG or WebP file, and prepare it as the server would: UINT8 pixels with this ``shape``.

        Raises:
            PictureError: The file cannot be read.

        Example:
            >>> ImageSpec(64, 64, channels=3).read(Path("photo.jpg")).shape
            (64, 64, 3)
        """
        return self.prepare(upright(file, self.channels))

    def prepare(self, picture: Image.Image, *, whole: bool = False) -> Pixels:
        """Resize an upright picture of ``channels`` channels, and return UINT8 pixels with this ``shape``. The given
        picture may be modified.

        With ``--fit garment``, ``whole`` scales down the whole picture instead of cutting out one garment, because the
        picture shows several garments, whose places and relative sizes matter.
        """
        size = (self.width, self.height)
        if picture.size == size:
            return np.asarray(picture)
        if self.fit == "garment":
            return _fit_whole(picture, *self.shape) if whole else _convert_garment(picture, *self.shape)
        if self.fit == "crop":
            return np.asarray(ImageOps.fit(picture, size, Image.Resampling.BILINEAR))
        if self.fit == "pad":
            return np.asarray(ImageOps.pad(picture, size, Image.Resampling.BILINEAR, _edge_colour(picture)))
        return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def opened(file: Path) -> Image.Image:
    """Open a user's PNG, JPEG or WebP file; its pixels are decoded on first use. Raises PictureError if the file is
    empty, has another format, or its header is damaged."""
    try:
        return Image.open(file, formats=_FORMATS)
    except Exception as error:  # Pillow raises exceptions of any type for a broken file
        raise _error_of(file, error) from error


def upright(file: Path, channels: int) -> Image.Image:
    """Decode a PNG, JPEG or WebP file, turn the picture upright by its EXIF data, and flatten it to ``channels``
    channels. Raises PictureError if the file cannot be read."""
    with opened(file) as picture:
        try:
            return flattened(ImageOps.exif_transpose(picture), channels)
        except Exception as error:  # Pillow raises exceptions of any type for a broken file
            raise _error_of(file, error) from error


def unreadable(content: bytes, why: object) -> str:
    """Return, as the end of a sentence, what is wrong with a file that is not a readable picture. ``content`` has at
    least the file's first 16 bytes, and ``why`` is the decoder's error."""
    if not content:
        return "is empty (0 bytes)"
    if not _BEGINNING.match(content):
        return "is not a PNG, JPEG or WebP file; convert the file to one of these formats"
    return f"{DAMAGED}{why}"


def _error_of(file: Path, error: Exception) -> PictureError:
    if isinstance(error, Image.DecompressionBombError) or (isinstance(error, OSError) and error.errno):
        return PictureError(reason(error))
    with file.open("rb") as content:
        why = "its header is wrong" if isinstance(error, UnidentifiedImageError | SyntaxError) else reason(error)
        return PictureError(f"it {unreadable(content.read(16), why)}")


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Return the height and width of a picture turned upright by its EXIF data. No pixel is decoded."""
    # Pillow's getexif for PNG files would decode the picture, because EXIF data may also follow the pixels.
    turned = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1) >= 5
    return (picture.width, picture.height) if turned else (picture.height, picture.width)


def flattened(picture: Image.Image, channels: int) -> Image.Image:
    """Convert a picture to mode "L" or "RGB". 16-bit pixels are scaled to 8 bits, and transparent parts become white.

    Converting a picture row by row gives the same result as converting the whole picture.
    """
    mode = "L" if channels == 1 else "RGB"
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255 instead of scaling
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        transparent = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", transparent.size, "white"), transparent)
    return picture.convert(mode)


def background_of(grey: npt.NDArray[Any]) -> float:
    """Return the background tone that ``--fit garment`` assumes: the median of a photo's corners."""
    return float(np.median([grey[0, 0], grey[0, -1], grey[-1, 0], grey[-1, -1]]))


def negated_on_white(grey: npt.NDArray[Any], background: float) -> npt.NDArray[Any]:
    """Negate a photo with a bright background, such as a photo of Fashion-MNIST. Keep a photo with a dark
    background."""
    return 255 - grey if background > 127 else grey


def _convert_garment(grey: Image.Image, height: int, width: int) -> Pixels:
    """Trim a photo to its garment, subsample it to the input's size, sharpen it, centre it, and negate it.

    Source: Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017, figure 1. The authors began with thumbnails 73 pixels high, so a
    larger photo is first scaled down to 73 pixels.
    """
    grey.thumbnail((THUMBNAIL_EDGE, THUMBNAIL_EDGE), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey)
    background = background_of(pixels)
    garment = Image.fromarray(_trim(pixels, background))
    scale = min(height / garment.height, width / garment.width)
    size = (max(1, round(garment.width * scale)), max(1, round(garment.height * scale)))
    garment = garment.resize(size, Image.Resampling.NEAREST)
    garment = garment.filter(ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0))
    return _centre(garment, background, height, width)


def _fit_whole(grey: Image.Image, height: int, width: int) -> Pixels:
    """Scale the whole picture down to the size of the input. A smaller picture, such as a garment of 28 pixels, is not
    enlarged."""
    grey.thumbnail((width, height), Image.Resampling.LANCZOS)
    return _centre(grey, float(np.median(_edge(grey))), height, width)


def _centre(picture: Image.Image, background: float, height: int, width: int) -> Pixels:
    canvas = Image.new("L", (width, height), round(background))
    canvas.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    result = np.asarray(canvas)
    return negated_on_white(result, background)


def _trim(pixels: Pixels, background: float) -> Pixels:
    differs = np.abs(pixels.astype(np.float32) - background) > BACKGROUND_TOLERANCE
    if not differs.any():
        return pixels
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _edge(picture: Image.Image) -> Pixels:
    """Return the pixels along the picture's whole border, [n] or [n, 3]. The corners alone are not enough, because an
    object may cover them."""
    pixels = np.asarray(picture)
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _edge_colour(picture: Image.Image) -> int | tuple[int, ...]:
    colour = np.atleast_1d(np.median(_edge(picture), axis=0).round().astype(int)).tolist()
    return colour[0] if len(colour) == 1 else tuple(colour)


def is_number(value: Any) -> bool:
    """Return whether a value from a file is a number in the range of floats. math.isfinite fails on larger ints."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
