"""Decodes PNG, JPEG and WebP files to grey images, within limits on the memory that decoding takes."""

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from hangtag.serving.server.errors import InvalidRequestError, QueueFullError, ServerError

MAX_PIXELS = 50_000_000
"""An image with more pixels is refused before it is decompressed, because a small file can hold a huge image."""

MAX_PIXELS_AT_ONCE = 2 * MAX_PIXELS
"""Most pixels of all images that are decoded at the same time, at up to ten bytes each; further images wait."""

TURN_SECONDS = 10.0
"""How long an image waits for its turn before it is refused."""

# Image.open would check the size against Image.MAX_IMAGE_PIXELS, which belongs to the whole program, is looser than
# MAX_PIXELS and is a warning as often as an error. These read the header, and decode when they are asked to load.
_READERS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
)


def decode_grey(data: bytes) -> Image.Image:
    """Decode a file to an upright image of mode "L", with transparent parts on white.

    Raises:
        InvalidRequestError: The file is empty, has another format, is damaged, or has more than MAX_PIXELS.
        QueueFullError: Too many large images are being decoded.
    """
    try:
        with _open(data) as image:
            _require_size(image)
            with _reserve(image.width * image.height):
                grey = _grey(ImageOps.exif_transpose(image))
                grey.load()
    except ServerError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise InvalidRequestError(f"the image cannot be decoded and seems damaged: {error}") from error
    return grey


def _open(data: bytes) -> Image.Image:
    """Read the header only, which has the size; nothing is decoded yet."""
    if not data:
        raise InvalidRequestError("the image is empty (0 bytes)")
    for beginning, reader in _READERS:
        if beginning.match(data):
            try:
                return reader(io.BytesIO(data))
            except SyntaxError:  # how Pillow says that it cannot read the header
                raise InvalidRequestError(
                    "the image cannot be decoded and seems damaged: its header is wrong"
                ) from None
    raise InvalidRequestError("the image is not a PNG, JPEG or WebP file; convert it to one of them")


def _require_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise InvalidRequestError(
            f"the image has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are taken. Scale it down."
        )


class _Budget:
    """The pixels that may still be decoded now, of MAX_PIXELS_AT_ONCE."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.left = MAX_PIXELS_AT_ONCE


_budget = _Budget()


@contextmanager
def _reserve(pixels: int) -> Iterator[None]:
    """Wait until this many pixels are within the budget, and hold them while the image is decoded."""
    with _budget.changed:
        if not _budget.changed.wait_for(lambda: _budget.left >= pixels, TURN_SECONDS):
            raise QueueFullError(
                f"too many large images at once: at most {MAX_PIXELS_AT_ONCE:,} pixels are decoded together; try again "
                "later with a back-off, or scale the image down"
            )
        _budget.left -= pixels
    try:
        yield
    finally:
        with _budget.changed:
            _budget.left += pixels
            _budget.changed.notify_all()


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        transparent = image.convert("RGBA")
        white = Image.new("RGBA", transparent.size, "white")  # the background of shop photos
        image = Image.alpha_composite(white, transparent)
    return image.convert("L")
