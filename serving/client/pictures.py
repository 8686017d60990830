"""Draw an image in the terminal, two pixels to a character: half blocks in colour, or shades without colour."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.color import Color
from rich.console import Console, RenderableType
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table

from hangtag.serving.image_spec import flattened

WIDTH = 28
_SHADES = " .:░▒▓█"


def draw(data: bytes, *, colour: bool) -> Segments | None:
    """Draw an image file, 28 characters wide. None for an unreadable file: the server's error explains it better."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            picture = flattened(ImageOps.exif_transpose(image), 3)  # upright, as the server sees it
        scale = WIDTH / max(picture.size)
        small = picture.resize([max(1, round(edge * scale)) for edge in picture.size])
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None
    pixels = np.asarray(ImageOps.pad(small, (small.width, small.height + small.height % 2)))
    return Segments(_half_blocks(pixels) if colour else _shades(pixels))


def print_with_image(console: Console, image: bytes | None, text: RenderableType) -> None:
    """Print an image with a text to its right, or below it if both are wider than the console; without an image, the
    text alone."""
    picture = draw(image, colour=console.color_system is not None) if image is not None else None
    layout = Table.grid(padding=(0, 3))
    if picture is None:
        layout.add_row(text)
    elif WIDTH + 3 + console.measure(text).maximum > console.width:
        layout.add_row(picture)
        layout.add_row(text)
    else:
        layout.add_column(width=WIDTH)
        layout.add_row(picture, text)
    console.print(layout)


def _half_blocks(pixels: npt.NDArray[np.uint8]) -> list[Segment]:
    segments: list[Segment] = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            style = Style(color=Color.from_rgb(*map(int, top)), bgcolor=Color.from_rgb(*map(int, bottom)))
            segments.append(Segment("▀", style))
        segments.append(Segment.line())
    return segments


def _shades(pixels: npt.NDArray[np.uint8]) -> list[Segment]:
    grey = pixels.mean(axis=2).reshape(-1, 2, pixels.shape[1]).mean(axis=1)  # [rows / 2, columns]
    levels = np.round(grey / 255 * (len(_SHADES) - 1)).astype(int)
    return [
        segment for row in levels for segment in (Segment("".join(_SHADES[level] for level in row)), Segment.line())
    ]
