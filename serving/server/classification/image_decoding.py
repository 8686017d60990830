"""Decodes PNG, JPEG and WebP files to grey or colour with Pillow, within a limit on the memory that decoding takes.
Pillow reads a file's header without decoding the picture. The picture's size and format determine the maximum
memory for decoding, which tests/serving/server/classification/test_decoding_memory.py measures."""

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from hangtag.serving import image_spec
from hangtag.serving.server.errors import InvalidRequestError, QueueFullError, ServerError

MAX_PIXELS = 50_000_000
"""The largest number of pixels in an image, because decoding takes time, and a small file can hold a huge image."""

MAX_EDGE = 16_384
"""The largest height and width in pixels, because an image with very many short rows takes long to decode."""

MAX_BYTES = 400 << 20
"""The maximum memory for decoding one image, and for all large images that are decoded at the same time. Further large
images wait. A photo of 50 megapixels in a baseline JPEG takes 382 MiB."""

LARGE_BYTES = 16 << 20
"""An image is large if decoding it may take at least this much memory. A smaller image does not wait for memory,
because each thread decodes only one image at a time."""

WAIT_SECONDS = 10.0
"""How long a large image waits for memory before it is refused."""

_READERS: dict[bytes, type[ImageFile]] = {b"\x89P": PngImageFile, b"\xff\xd8": JpegImageFile, b"RI": WebPImageFile}
"""A file's first two bytes -> Pillow's reader. Image.open is avoided, as it warns above a pixel limit of its own."""

_MAX_READS = 50_000
"""The largest number of pieces that Pillow may read from a file, about three for each chunk or segment. PNG encoders
put 4 KiB or more into a chunk."""
_MAX_HEADER_READS = 1_000  # the limit on pieces before the pixel data, because Pillow keeps these pieces in memory

_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")
_MAX_COMPRESSED = 8
"""The largest number of compressed texts and profiles in a PNG file. Pillow unpacks up to 1 MiB of each."""

_SCAN = b"\xff\xda"
_MAX_SCANS = 100
"""The largest number of scans in a JPEG file. Each scan goes through the whole picture. Encoders write about ten."""

_LOSSLESS = (
    re.compile(rb"VP8L(....)\x2f", re.DOTALL),
    re.compile(rb"ALPH(....)[%b]" % re.escape(bytes(range(1, 256, 4))), re.DOTALL),
)
"""The beginnings of a WebP file's lossless picture and lossless alpha channel. The group captures the size in bytes."""

_BAND_PIXELS = 1 << 18
"""The number of pixels that are flattened at a time, so that copies are small and other threads can run in between."""


class EncodedImage:
    """A PNG, JPEG or WebP file. The file's header is read once, on first use."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @cached_property
    def _decoding_bytes(self) -> int:
        """The maximum memory for decoding. Raises InvalidRequestError like `decoded`."""
        with _opened(self._data) as image:
            (width, height), needed = image.size, _decoding_bytes(image, self._data)
        size = f"{width} x {height} pixels"
        if width <= 0 or height <= 0:
            raise _damaged(f"it has {size}")
        if width * height > MAX_PIXELS or max(width, height) > MAX_EDGE:
            raise InvalidRequestError(
                f"the image has {size}; the limit is {MAX_PIXELS:,} pixels, and {MAX_EDGE:,} pixels for an edge. Scale "
                "the image down."
            )
        if needed > MAX_BYTES:
            raise InvalidRequestError(
                f"decoding the image, of {size}, may take {-(-needed >> 20)} MiB of memory; the limit is "
                f"{MAX_BYTES >> 20} MiB. Scale the image down, or save it as a PNG or as a baseline JPEG."
            )
        return needed

    @property
    def is_large(self) -> bool:
        """Whether decoding may be slow and may have to wait for memory. False for a file that `decoded` will refuse."""
        try:
            return self._decoding_bytes >= LARGE_BYTES
        except InvalidRequestError:
            return False

    @contextmanager
    def decoded(self, channels: int, wait_seconds: float = WAIT_SECONDS) -> Iterator[Image.Image]:
        """Decode the file to an upright image of mode "L" (1 channel) or "RGB" (3 channels), with transparent parts on
        white. The memory for decoding counts against the limit until the caller leaves the context. Raises
        InvalidRequestError if the file is empty, has another format, is damaged, or exceeds the limits for images, and
        QueueFullError if too many large images are being decoded."""
        with _reserve(self._decoding_bytes, wait_seconds):
            yield _decode(self._data, channels)


class _Budget:
    changed = threading.Condition()
    left = MAX_BYTES


@contextmanager
def _reserve(size: int, wait_seconds: float) -> Iterator[None]:
    """Wait until the budget has room for a large image, and reserve the image's bytes until the context ends."""
    if size < LARGE_BYTES:
        yield
        return
    with _Budget.changed:
        if not _Budget.changed.wait_for(lambda: _Budget.left >= size, wait_seconds):
            raise QueueFullError(
                f"too many large images at once: together they may take at most {MAX_BYTES >> 20} MiB while the server "
                "decodes them; try again later with a back-off, or scale the image down"
            )
        _Budget.left -= size
    try:
        yield
    finally:
        with _Budget.changed:
            _Budget.left += size
            _Budget.changed.notify_all()


class _File(io.BytesIO):
    """A file in memory that limits the number of reads and the number of compressed PNG chunks."""

    reads_left = _MAX_HEADER_READS
    compressed_left = _MAX_COMPRESSED

    def read(self, size: int | None = -1, /) -> bytes:
        """Raise InvalidRequestError after too many reads or too many compressed chunks."""
        piece = super().read(size)
        self.reads_left -= 1
        if len(piece) == 8 and piece[4:] in _COMPRESSED:  # a chunk's length and kind
            self.compressed_left -= 1
        if self.reads_left < 0 or self.compressed_left < 0:
            raise _damaged("it has too many parts")
        return piece


@contextmanager
def _opened(data: bytes) -> Iterator[ImageFile]:
    """Read an image's header. Until the context ends, convert all errors of Pillow to the server's errors."""
    reader = _READERS.get(data[:2], PngImageFile)  # PngImageFile refuses files of other formats
    file = _File(data)
    try:
        with reader(file) as image:
            file.reads_left = _MAX_READS
            yield image
    except ServerError:
        raise
    except Exception as error:  # Pillow's decoders may raise any exception for a broken file
        why = "its header is wrong" if isinstance(error, SyntaxError) else error
        raise InvalidRequestError(f"the image {image_spec.unreadable(data, why)}") from error


def _damaged(reason: object) -> InvalidRequestError:
    return InvalidRequestError(f"the image {image_spec.DAMAGED}{reason}")


def _decoding_bytes(image: ImageFile, data: bytes) -> int:
    """Return the most memory that decoding takes, in bytes: four bytes a pixel for the image, four for its flat copy,
    and the memory of the decoder.

    A baseline JPEG is decoded row by row. For a JPEG of several scans, libjpeg holds all coefficients, of 16 bits,
    until the last scan is decoded. Pillow decodes each WebP as an animation, with two canvases and a copy of one
    canvas. A lossless part may have five Huffman tables of 1 KiB for each block of 4 by 4 pixels. These tables take as
    few as 28 bits in the file. A table that takes more bits in the file can also take more memory. Only a decoder knows
    how many tables there are, so this function assumes the largest possible number.
    """
    pixels = image.width * image.height
    if isinstance(image, JpegImageFile) and _has_several_scans(image, data):
        return pixels * 12
    if isinstance(image, WebPImageFile):
        sizes = (int.from_bytes(part[1], "little") for kind in _LOSSLESS for part in kind.finditer(data))
        lossless = min(max(sizes, default=0), len(data))
        return pixels * 20 + min(pixels * 356, lossless * 1_630) + lossless * 100
    return pixels * 8


def _has_several_scans(image: JpegImageFile, data: bytes) -> bool:
    """Return whether the first scan lacks a part of the picture's data. Refuse too many scans."""
    assert image.fp is not None  # the file is open until the picture is decoded
    end = image.fp.tell()  # Pillow has read the first scan's header: six bytes, and two for each component
    start = end - 2 * image.layers - 8
    whole = _SCAN + bytes((0, 2 * image.layers + 6, image.layers))
    if data.startswith(whole, start) and not image.info.get("progressive"):
        return False
    if data.count(_SCAN) > _MAX_SCANS:
        raise _damaged(f"it has more than {_MAX_SCANS} scans")
    return True


def _decode(data: bytes, channels: int) -> Image.Image:
    with _opened(data) as image:
        image.load()
        flat = Image.new("L" if channels == 1 else "RGB", image.size)
        rows = max(1, _BAND_PIXELS // image.width)
        for top in range(0, image.height, rows):
            box = (0, top, image.width, min(top + rows, image.height))
            # Image.crop would check the size against Image.MAX_IMAGE_PIXELS.
            band = image.resize((image.width, box[3] - top), Image.Resampling.NEAREST, box)
            flat.paste(image_spec.flattened(band, channels), (0, top))
        flat.info = image.info  # the Exif data says how to rotate the image
        image.close()  # free the original before the flattened copy is rotated, which needs memory
        ImageOps.exif_transpose(flat, in_place=True)
    flat.info.clear()
    return flat
