"""Read the pictures that a command line names, warn if a picture seems to show no garment, and draw pictures in the
terminal."""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from rich.color import Color
from rich.console import Console, RenderableType
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table

from hangtag.errors import UserError
from hangtag.serving import image_spec
from hangtag.serving.image_spec import SUFFIXES

STANDARD_INPUT = Path("-")
WIDTH = 28
"""The width of a drawn picture in characters."""
LEAST_CONTRAST = 32
"""A picture is nearly blank if its darkest and brightest pixel differ by fewer grey levels than this. In each image of
Fashion-MNIST's test set, they differ by at least 254 levels."""
_EDGE = image_spec.THUMBNAIL_EDGE
_MARGIN = 1 / 7
_BLANK = (
    "the picture is nearly blank, so the label says little: check that this is the right file, and that it shows the "
    "garment"
)
_INVERTED = (
    "the picture seems inverted: the model expects a bright garment on black. Invert the picture's tones, or use a "
    "picture larger than {} x {} pixels with a dark garment on evenly lit white: the server converts such pictures"
)


def expand(path: Path) -> tuple[list[Path], int]:
    """Return the path itself, or, for a folder, the sorted paths of all images in it and its subfolders.

    The second value counts the folder's other visible files. Raises UserError if the folder holds no image.
    """
    if path == STANDARD_INPUT or not path.is_dir():
        return [path], 0
    entries = sorted(path.rglob("*"))
    images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
    if not images:
        raise UserError(f"{path} holds no image that can be read; the files' names must end in {', '.join(SUFFIXES)}")
    others = (entry.relative_to(path) for entry in set(entries).difference(images) if entry.is_file())
    return images, sum(not any(part.startswith(".") for part in other.parts) for other in others)


def read(path: Path) -> bytes:
    """Return the bytes of a file. The server checks them. Raises OSError, and UserError if the file is empty."""
    data = sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes()
    if not data:
        raise UserError("standard input was empty" if path == STANDARD_INPUT else "the file is empty (0 bytes)")
    return data


def warning(data: bytes, image: image_spec.ImageSpec) -> str:
    """Say what is wrong with a picture and what helps; "" if nothing is wrong, or if the model is not for garments.

    If a model's file says ``fit=garment``, the model learned bright garments on black, and cannot classify blank or
    inverted pictures well. In a test with the 10,000 test images of Fashion-MNIST, these rules warned of every inverted
    image, but of no original image and of no enlarged image on a white or black background.
    """
    grey = _upright(data, 1) if image.fit == "garment" else None
    if grey is None:
        return ""
    converted = grey.size != (image.width, image.height)
    grey.thumbnail((_EDGE, _EDGE), Image.Resampling.BOX)  # averages out a camera's noise
    pixels = np.asarray(grey, np.float32)
    if pixels.max() - pixels.min() < LEAST_CONTRAST:
        return _BLANK
    if converted:
        pixels = image_spec.negated_on_white(pixels, image_spec.background_of(pixels))
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    rows, columns = (round(length * _MARGIN) for length in pixels.shape)
    inner = pixels[rows : pixels.shape[0] - rows, columns : pixels.shape[1] - columns]
    tolerance = image_spec.BACKGROUND_TOLERANCE if converted else 0
    return _INVERTED.format(image.width, image.height) if np.median(edge) > inner.mean() + tolerance else ""


def print_with_image(console: Console, image: bytes | None, text: RenderableType) -> None:
    """Print a text, to the right of an image if there is one and the console has colours."""
    layout = Table.grid(padding=(0, 3))
    if image is not None and console.color_system is not None and (picture := _upright(image, 3)) is not None:
        layout.add_column(width=WIDTH)
        layout.add_row(_drawn(picture), text)
    else:
        layout.add_row(text)
    console.print(layout)


def _upright(data: bytes, channels: int) -> Image.Image | None:
    """Decode an image file as the server does. Returns None if this machine's Pillow cannot decode the file."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.draft(None, (2 * _EDGE, 2 * _EDGE))  # lets a JPEG be decoded at a fraction of its size
            return image_spec.flattened(ImageOps.exif_transpose(picture), channels)
    except Exception:  # Pillow's decoders may raise any exception
        return None


def _drawn(picture: Image.Image) -> Segments:
    """Draw a picture as text. Each character shows two pixels, one above the other."""
    scale = WIDTH / max(picture.size)
    small = picture.resize([max(1, round(edge * scale)) for edge in picture.size])
    pixels = np.asarray(ImageOps.pad(small, (small.width, small.height + small.height % 2)))
    segments: list[Segment] = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            style = Style(color=Color.from_rgb(*map(int, top)), bgcolor=Color.from_rgb(*map(int, bottom)))
            segments.append(Segment("▀", style))
        segments.append(Segment.line())
    return Segments(segments)
