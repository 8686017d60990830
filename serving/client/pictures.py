"""A small picture in the terminal: two pixels a character, the upper half block in one colour on the other."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style

WIDTH = 28


def draw(data: bytes) -> Segments | None:
    """An image file, 28 characters wide; None for one that cannot be read, which the server will explain better."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            small = ImageOps.contain(image.convert("RGB"), (WIDTH, WIDTH))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None
    pixels = np.asarray(ImageOps.pad(small, (small.width, small.height + small.height % 2)))
    return Segments(_half_blocks(pixels))


def _half_blocks(pixels: npt.NDArray[np.uint8]) -> list[Segment]:
    segments: list[Segment] = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            style = Style(color=Color.from_rgb(*map(int, top)), bgcolor=Color.from_rgb(*map(int, bottom)))
            segments.append(Segment("▀", style))
        segments.append(Segment.line())
    return segments
