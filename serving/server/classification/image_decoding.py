"""Decodes PNG, JPEG and WebP files to grey or colour, within limits on the memory that decoding takes."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from hangtag.serving import image_spec
from hangtag.serving.server.classification import image_header, png_file
from hangtag.serving.server.classification.image_header import ImageHeader, damaged
from hangtag.serving.server.errors import InvalidRequestError, QueueFullError, ServerError

LARGE_BYTES = 16 << 20
"""An image that needs at least this much memory is large: decoding it may take longer than other callers should wait.
Smaller images do not wait for memory: at most one per decoding thread is decoded at once."""

MAX_BYTES_AT_ONCE = 400 << 20
"""The most memory of all large images that are decoded at the same time; further large images wait."""

WAIT_SECONDS = 10.0
"""How long a large image waits for its turn before it is refused."""

_BAND_PIXELS = 1 << 18
"""Number of pixels to flatten at a time, so that the copies of a conversion stay small, and other threads can run
between two bands."""


class EncodedImage:
    """A PNG, JPEG or WebP file. Its header is read once, on first use."""

    def __init__(self, data: bytes) -> None:
        """data: The file's content."""
        self._data = data

    @cached_property
    def header(self) -> ImageHeader:
        """The file's header.

        Raises:
            InvalidRequestError: The file is empty, has another format, or is damaged.
        """
        data = self._data
        if data.startswith(png_file.SIGNATURE):
            return png_file.read(data)
        if data.startswith(image_header.JPEG_SIGNATURE):
            return image_header.read_jpeg(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return image_header.read_webp(data)
        raise InvalidRequestError(f"the image {image_spec.unreadable(data, 'its header is wrong')}")

    @property
    def is_large(self) -> bool:
        """Whether decoding the file in colour may take long, and may wait for other large images.

        A file that will be refused does not count as large.
        """
        try:
            self.header.require_limits(1)
        except InvalidRequestError:
            return False
        return self.header.memory(3) >= LARGE_BYTES

    @contextmanager
    def decoded(self, channels: int, wait_seconds: float = WAIT_SECONDS) -> Iterator[Image.Image]:
        """Decode the file to an upright image of mode "L" or "RGB", with transparent parts on white.

        The memory for decoding counts against the limit until the caller leaves the context.

        Args:
            channels: 1 for grey, 3 for colour.
            wait_seconds: How long to wait for memory that other large images use.

        Raises:
            InvalidRequestError: The file is empty, has another format, is damaged, or exceeds the limits for images.
            QueueFullError: Too many large images are being decoded.
        """
        self.header.require_limits(channels)
        with _reserve(self.header.memory(channels), wait_seconds):
            yield _decode(self._data, self.header, channels)


class _Budget:
    """The part of MAX_BYTES_AT_ONCE that large images may still take."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.left = MAX_BYTES_AT_ONCE


_budget = _Budget()


@contextmanager
def _reserve(size: int, wait_seconds: float) -> Iterator[None]:
    """Wait until the budget has room for a large image, and reserve the image's bytes until the context ends."""
    if size < LARGE_BYTES:
        yield
        return
    with _budget.changed:
        if not _budget.changed.wait_for(lambda: _budget.left >= size, wait_seconds):
            raise QueueFullError(
                f"too many large images at once: those being decoded may take at most {MAX_BYTES_AT_ONCE >> 20} MiB in "
                "total; try again later with a back-off, or scale the image down"
            )
        _budget.left -= size
    try:
        yield
    finally:
        with _budget.changed:
            _budget.left += size
            _budget.changed.notify_all()


def _decode(data: bytes, header: ImageHeader, channels: int) -> Image.Image:
    try:
        flat = _load(data, header, channels)
        ImageOps.exif_transpose(flat, in_place=True)
    except ServerError:
        raise
    except SyntaxError:  # how Pillow says that it cannot read the header
        raise damaged("its header is wrong") from None
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise damaged(error) from error
    flat.info.clear()
    return flat


def _load(data: bytes, header: ImageHeader, channels: int) -> Image.Image:
    """Decode a file and flatten it. When this returns, only the flat image is in memory.

    If a file ends early, Pillow refuses a WebP, does not say whether a JPEG has all its rows, and leaves the missing
    rows of a PNG black.
    """
    is_png = header.reader is PngImageFile
    with header.reader(io.BytesIO(png_file.picture(data) if is_png else data)) as image:
        if image.size != (header.width, header.height):
            raise damaged("its header is wrong")
        image.load()
        if is_png and _may_lack_rows(image):
            png_file.require_rows(data)
        return _flattened(image, channels)


def _may_lack_rows(image: Image.Image) -> bool:
    """Whether the last row is empty, as Pillow leaves a row without data, or is not the last row in the file."""
    return _rows(image, image.height - 1, image.height).getbbox() is None or "interlace" in image.info


def _flattened(image: Image.Image, channels: int) -> Image.Image:
    """Flatten an image, one band of rows after another."""
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
