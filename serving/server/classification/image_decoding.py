"""Decodes PNG, JPEG and WebP files to grey or colour, within limits on the memory that decoding takes."""

import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from hangtag.serving import image_spec
from hangtag.serving.server.classification import jpeg_file, png_file, webp_file
from hangtag.serving.server.classification.image_header import ImageHeader, damaged
from hangtag.serving.server.errors import InvalidRequestError, QueueFullError, ServerError

LARGE_BYTES = 16 << 20
"""Memory from which on an image counts as large: decoding it may take longer than a caller of a small one should wait.
Smaller ones do not wait for memory: there are as many at once as threads that decode, at most."""

MAX_BYTES_AT_ONCE = 400 << 20
"""Most memory that all large images take that are decoded at the same time; further ones wait."""

WAIT_SECONDS = 10.0
"""How long a large image waits for its turn before it is refused."""

_BAND_PIXELS = 1 << 18
"""Pixels that are flattened at a time, so that the copies of a conversion stay small, and other threads can run
between two bands."""


class _Format(NamedTuple):
    beginning: re.Pattern[bytes]
    read_header: Callable[[bytes], ImageHeader]
    picture: Callable[[bytes], bytes]
    """Returns the file that Pillow decodes."""
    require_rows: Callable[[bytes], None]
    """Raises InvalidRequestError for a file whose data ends before its last row, where Pillow does not."""
    reader: type[ImageFile]


def _same(data: bytes) -> bytes:
    return data


def _nothing(data: bytes) -> None:
    """Pillow refuses a WebP file that ends early. It does not say whether a JPEG file has all its rows."""


# Image.open would check the size against Image.MAX_IMAGE_PIXELS, which belongs to the whole program, is looser than
# our limits and is a warning as often as an error. These read the header, and decode when they are asked to load.
_FORMATS = (
    _Format(
        re.compile(re.escape(png_file.SIGNATURE)), png_file.read, png_file.picture, png_file.require_rows, PngImageFile
    ),
    _Format(re.compile(re.escape(jpeg_file.SIGNATURE)), jpeg_file.read, _same, _nothing, JpegImageFile),
    _Format(re.compile(rb"RIFF....WEBP", re.DOTALL), webp_file.read, _same, _nothing, WebPImageFile),
)


@contextmanager
def decoded(data: bytes, channels: int, wait_seconds: float = WAIT_SECONDS) -> Iterator[Image.Image]:
    """Decode a file to an upright image of mode "L" or "RGB", with transparent parts on white.

    The memory that decoding takes counts until the caller is done with the image.

    Args:
        data: The file's content.
        channels: 1 for grey, 3 for colour.
        wait_seconds: How long it may wait for the memory that other large images take.

    Raises:
        InvalidRequestError: The file is empty, has another format, is damaged, or is larger than an image may be.
        QueueFullError: Too many large images are being decoded.
    """
    format_, header = _format_of(data), header_of(data, channels)
    with _reserve(header.memory(channels), wait_seconds):
        yield _decode(data, format_, header, channels)


def header_of(data: bytes, channels: int) -> ImageHeader:
    """Read what a file says of itself: the size of its image, and the memory that decoding takes.

    Args:
        data: The file's content.
        channels: 1 for grey, 3 for colour.

    Raises:
        InvalidRequestError: The file is empty, has another format, is damaged, or is larger than an image may be.
    """
    header = _format_of(data).read_header(data)
    header.require_limits(channels)
    return header


def is_large(data: bytes) -> bool:
    """Whether decoding the file, in colour, may take long, and wait for other large images.

    A file that is refused is not large.
    """
    try:
        return header_of(data, 1).memory(3) >= LARGE_BYTES
    except InvalidRequestError:
        return False


def _format_of(data: bytes) -> _Format:
    if not data:
        raise InvalidRequestError("the image is empty (0 bytes)")
    for format_ in _FORMATS:
        if format_.beginning.match(data):
            return format_
    raise InvalidRequestError("the image is not a PNG, JPEG or WebP file; convert it to one of them")


class _Budget:
    """The bytes that large images may still take now, of MAX_BYTES_AT_ONCE."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.left = MAX_BYTES_AT_ONCE


_budget = _Budget()


@contextmanager
def _reserve(size: int, wait_seconds: float) -> Iterator[None]:
    """Wait until a large image's bytes are within the budget, and hold them while it is decoded and used."""
    if size < LARGE_BYTES:
        yield
        return
    with _budget.changed:
        if not _budget.changed.wait_for(lambda: _budget.left >= size, wait_seconds):
            raise QueueFullError(
                f"too many large images at once: at most {MAX_BYTES_AT_ONCE >> 20} MiB are taken by those that are "
                "decoded together; try again later with a back-off, or scale the image down"
            )
        _budget.left -= size
    try:
        yield
    finally:
        with _budget.changed:
            _budget.left += size
            _budget.changed.notify_all()


def _decode(data: bytes, format_: _Format, header: ImageHeader, channels: int) -> Image.Image:
    try:
        flat = _load(data, format_, header, channels)
        ImageOps.exif_transpose(flat, in_place=True)
    except ServerError:
        raise
    except SyntaxError:  # how Pillow says that it cannot read the header
        raise damaged("its header is wrong") from None
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise damaged(error) from error
    flat.info.clear()
    return flat


def _load(data: bytes, format_: _Format, header: ImageHeader, channels: int) -> Image.Image:
    """Decode a file, and flatten it. Only the flat image is in memory when this returns."""
    with format_.reader(io.BytesIO(format_.picture(data))) as image:
        if image.size != (header.width, header.height):
            raise damaged("its header is wrong")
        image.load()
        if _may_lack_rows(image):
            format_.require_rows(data)
        return _flattened(image, channels)


def _may_lack_rows(image: Image.Image) -> bool:
    """Whether the last row is empty, as Pillow leaves it without data, or is not the last in the file."""
    return _rows(image, image.height - 1, image.height).getbbox() is None or "interlace" in image.info


def _flattened(image: Image.Image, channels: int) -> Image.Image:
    """Flatten an image, a band of rows after the other."""
    flat = Image.new("L" if channels == 1 else "RGB", image.size)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        flat.paste(image_spec.flattened(_rows(image, top, min(top + rows, image.height)), channels), (0, top))
    flat.info = image.info  # says how the image was turned
    return flat


def _rows(image: Image.Image, top: int, bottom: int) -> Image.Image:
    """Return a copy of some rows. Image.crop would check their size against Image.MAX_IMAGE_PIXELS."""
    box = (0, top, image.width, bottom)
    return image.resize((image.width, bottom - top), Image.Resampling.NEAREST, box)
