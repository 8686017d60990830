"""A small picture in the terminal, two pixels a character: half blocks in colour, or shades where there is none."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.color import Color
from rich.console import Console, RenderableType
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table

WIDTH = 28
_SHADES = " .:░▒▓█"


def draw(data: bytes, *, colour: bool) -> Segments | None:
    """An image file, 28 characters wide; None for one that cannot be read, which the server will explain better."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            scale = WIDTH / max(image.size)
            small = image.convert("RGB").resize([max(1, round(edge * scale)) for edge in image.size])
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None
    pixels = np.asarray(ImageOps.pad(small, (small.width, small.height + small.height % 2)))
    return Segments(_half_blocks(pixels) if colour else _shades(pixels))


def print_beside(console: Console, image: bytes | None, told: RenderableType) -> None:
    """Print what there is to tell; on its left, or above where that is too wide, the image if it can be drawn."""
    picture = draw(image, colour=console.color_system is not None) if image is not None else None
    layout = Table.grid(padding=(0, 3))
    if picture is None:
        layout.add_row(told)
    elif WIDTH + 3 + console.measure(told).maximum > console.width:
        layout.add_row(picture)
        layout.add_row(told)
    else:
        layout.add_column(width=WIDTH)
        layout.add_row(picture, told)
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
