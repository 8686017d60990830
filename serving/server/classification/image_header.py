"""Reads an image file's size before it is decoded, and derives the memory that decoding takes.

A baseline JPEG is decoded row by row. In a progressive JPEG, or a JPEG with a scan for each component, every scan
changes the whole picture, so libjpeg holds all coefficients, 16 bits each, until the last scan is decoded.

Pillow decodes every WebP as an animation: with two canvases of four bytes a pixel, a copy of one canvas as bytes, and
Pillow's own image. A lossless picture, or a lossless transparency, takes Huffman tables in addition. Each block of 4 by
4 pixels may have five tables of its own, of 1 KiB each, for only 28 bits of the file, so a file of 300 KB may take 350
MiB. Only a decoder knows how many tables there are, so the largest possible number is assumed.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile

from hangtag.serving.image_spec import DAMAGED
from hangtag.serving.server.errors import InvalidRequestError

MAX_EDGE = 16_384
"""The most pixels of an edge, to limit the cost of rows, however short. The edges of WebP files, phone panoramas and A4
pages scanned at 1,200 dots per inch are never longer."""

MAX_PIXELS = 50_000_000
"""The most pixels of an image, to limit the time for decoding. A small file can hold a huge image."""

MAX_DECODING_BYTES = 240 << 20
"""The most memory that decoding an image may take. A photo of 50 megapixels in a baseline JPEG takes 239 MiB."""

_ROW_POINTER_BYTES = 8
_FLAT_BYTES = {1: 1, 3: 4}
"""Number of channels -> bytes of a pixel. Pillow keeps a fourth byte for a pixel of three colours."""


@dataclass(frozen=True)
class ImageHeader:
    """The size of an image, and the memory that its decoder takes, derived from the file before it is decoded."""

    reader: type[ImageFile]
    """Pillow's reader, which decodes on ``load``. Image.open would check the size against Image.MAX_IMAGE_PIXELS, which
    applies to the whole program, is looser than the limits here, and may only cause a warning."""
    kind: str
    """The format in words, such as "progressive JPEG"."""
    width: int
    height: int
    decoded_bytes: int
    """The memory of Pillow's decoded image."""
    decoder_bytes: int
    """The most memory that the decoder takes in addition to the decoded image, and frees once the image is decoded."""
    kept_bytes: int
    """The memory that stays in use with the decoded image: copies of parts of the file, a decoder's buffers."""
    advice: str = "Scale it down."

    def memory(self, channels: int) -> int:
        """The most bytes that decoding the image to grey (1) or colour (3) takes, without the file itself."""
        rows = _ROW_POINTER_BYTES * 2 * max(self.width, self.height)
        decoded = self.decoded_bytes + self.kept_bytes
        flat = self.width * self.height * _FLAT_BYTES[channels]
        return rows + max(decoded + self.decoder_bytes, decoded + flat, 2 * flat)  # turning upright takes two copies

    def require_limits(self, channels: int) -> None:
        """Raise InvalidRequestError if the image is too large, or decoding it takes too much memory."""
        size = f"{self.width} x {self.height} pixels"
        if self.width <= 0 or self.height <= 0:
            raise damaged(f"it has {size}")
        if self.width * self.height > MAX_PIXELS:
            raise InvalidRequestError(f"the image has {size}; at most {MAX_PIXELS:,} are taken. Scale it down.")
        if max(self.width, self.height) > MAX_EDGE:
            raise InvalidRequestError(
                f"the image has {size}; edges of at most {MAX_EDGE:,} pixels are taken. Scale it down."
            )
        if (memory := self.memory(channels)) > MAX_DECODING_BYTES:
            raise InvalidRequestError(
                f"the image, a {self.kind} of {size}, may take {_mib(memory)} MiB of memory to decode; at most "
                f"{_mib(MAX_DECODING_BYTES)} MiB are taken. {self.advice}"
            )


def damaged(reason: object) -> InvalidRequestError:
    """Return the error for a file that cannot be decoded."""
    return InvalidRequestError(f"the image {DAMAGED}{reason}")


def _mib(size: int) -> int:
    return -(-size >> 20)  # rounded up


JPEG_SIGNATURE = b"\xff\xd8\xff"

_MAX_SEGMENTS = 1_000
"""The most segments before the picture. Pillow keeps each segment, and joins Exif segments one by one. Of the largest
segments that cameras write, 64 KiB each, 256 reach the default --max-message-mib."""
_MAX_SCANS = 100
"""The most scans. Even a scan of a few bytes takes time for all coefficients. Encoders write about ten scans."""

_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_ALONE = {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # markers after which Pillow expects no length
_SCAN = 0xDA
_END = 0xD9
_BLOCK = 8
_BLOCK_BYTES = 2 * _BLOCK * _BLOCK

_MARKER = re.compile(rb"\xff([^\x00\xff])")
_MARKER_AFTER_SCAN = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")


def read_jpeg(data: bytes) -> ImageHeader:
    """Read the markers of a JPEG file up to its picture, and count the picture's scans if there are several.

    Raises:
        InvalidRequestError: The file is damaged, or has too many segments or scans.
    """
    frame, at, segments = None, 2, 0
    while (marker := _MARKER.search(data, at)) and marker[1][0] != _SCAN:
        at = marker.end()
        kind = marker[1][0]
        if kind in _ALONE:
            continue
        if kind in _FRAMES:
            frame = (kind, data[at : at + _segment_length(data, at)])
        at += _segment_length(data, at)
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise damaged(f"it has more than {_MAX_SEGMENTS:,} segments before its picture")
    if frame is None or marker is None:
        raise damaged("its header is wrong")
    return _jpeg_header(data, *frame, marker.end())


def _jpeg_header(data: bytes, kind: int, frame: bytes, scan: int) -> ImageHeader:
    """scan: The position where the data of the first scan starts."""
    try:
        height, width, components = struct.unpack_from(">HHB", frame, 3)
        sampling = [divmod(frame[8 + 3 * number + 1], 16) for number in range(components)]
        has_several_scans = kind in _PROGRESSIVE or data[scan + 2] < components
    except (struct.error, IndexError):
        raise damaged("its header is wrong") from None
    if components not in (1, 3, 4) or any(0 in factors for factors in sampling):
        raise damaged("its header is wrong")
    if has_several_scans:
        _require_scans(data, scan)
    name = "progressive JPEG" if kind in _PROGRESSIVE else "JPEG of several scans" if has_several_scans else "JPEG"
    return ImageHeader(
        JpegImageFile,
        name,
        width,
        height,
        decoded_bytes=width * height * (1 if components == 1 else 4),
        decoder_bytes=_coefficient_bytes(width, height, sampling) if has_several_scans else 0,
        kept_bytes=2 * scan,
        advice="Scale it down, or save it as a baseline JPEG." if has_several_scans else "Scale it down.",
    )


def _segment_length(data: bytes, at: int) -> int:
    """Return the length of a segment, including the two bytes of the length itself."""
    return max(2, int.from_bytes(data[at : at + 2], "big"))


def _coefficient_bytes(width: int, height: int, sampling: list[tuple[int, int]]) -> int:
    """Return the memory of all components' coefficients, in whole groups of blocks."""
    across = -(-width // (_BLOCK * max(horizontal for horizontal, _ in sampling)))
    down = -(-height // (_BLOCK * max(vertical for _, vertical in sampling)))
    return sum(across * horizontal * down * vertical * _BLOCK_BYTES for horizontal, vertical in sampling)


def _require_scans(data: bytes, at: int) -> None:
    """Raise InvalidRequestError if the picture has too many scans. at: Where the first scan's data starts."""
    scans = 1
    while (marker := _MARKER_AFTER_SCAN.search(data, at)) and marker[1][0] != _END:
        at = marker.end() + _segment_length(data, marker.end())
        scans += marker[1][0] == _SCAN
        if scans > _MAX_SCANS:
            raise damaged(f"it has more than {_MAX_SCANS} scans")


_PIXEL_BYTES = 4
_CANVASES = 2
_LOSSLESS_PIXEL_BYTES = 6  # the lossless decoder's own picture, smaller ones, and the transparency taken from them
_FILE_COPIES = 3  # while Pillow joins the parts that it reads; after that, only libwebp's own copy is left

_MAX_WEBP_CHUNKS = 100_000

_MAX_GROUPS = 1 << 16
_TABLE_BLOCK = 4
_GROUP_BYTES = 5_700  # five tables with codes of at most eight bits, and what refers to them
_GROUP_BITS = 28  # 20 for five tables of one code each, eight or more to refer to them
_LONGER_CODES_BYTES = 100  # for each byte of the file: a bit makes tables with longer codes grow by less than 12 bytes
_LARGEST_TABLES_BYTES = 16_000  # the most by which one group's tables grow, with a colour cache of 2,048 entries


def read_webp(data: bytes) -> ImageHeader:
    """Read the size of a WebP picture, and whether any part of it is lossless.

    Raises:
        InvalidRequestError: The file is damaged.
    """
    try:
        width, height = _webp_size(data)
        lossless = max(
            (end - start for kind, start, end in _webp_chunks(data) if _is_lossless(data, kind, start)), default=0
        )
    except (struct.error, IndexError):
        raise damaged("its header is wrong") from None
    pixels = width * height
    blocks = -(-width // _TABLE_BLOCK) * -(-height // _TABLE_BLOCK)
    groups = min(_MAX_GROUPS, blocks, lossless * 8 // _GROUP_BITS)
    tables = groups * _GROUP_BYTES + min(lossless * _LONGER_CODES_BYTES, groups * _LARGEST_TABLES_BYTES)
    copy = pixels * _PIXEL_BYTES
    # The lossless decoder frees its memory before the canvas is copied and Pillow's image is allocated.
    lossless_decoder = pixels * (_LOSSLESS_PIXEL_BYTES - _PIXEL_BYTES) + tables if lossless else 0
    return ImageHeader(
        WebPImageFile,
        "WebP with a lossless part" if lossless else "WebP",
        width,
        height,
        decoded_bytes=pixels * _PIXEL_BYTES,
        decoder_bytes=max(copy, lossless_decoder, (_FILE_COPIES - 1) * len(data)),
        kept_bytes=pixels * _PIXEL_BYTES * _CANVASES + len(data),
        advice="Scale it down, or save it as a PNG." if lossless else "Scale it down, or save it as a JPEG.",
    )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the width and height of the canvas."""
    match data[12:16]:
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L" if data[20] == 0x2F:
            (size,) = struct.unpack_from("<I", data, 21)
            return (size & 0x3FFF) + 1, (size >> 14 & 0x3FFF) + 1
        case b"VP8X" if len(data) >= 30:
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case _:
            raise damaged("its header is wrong")


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's kind, and where its data starts and ends, including chunks in an animation's frames."""
    at = 12
    for _ in range(_MAX_WEBP_CHUNKS):
        if at + 8 > len(data):
            return
        kind, length = struct.unpack_from("<4sI", data, at)
        at += 8
        yield kind, at, min(at + length, len(data))
        at += 16 if kind == b"ANMF" else length + length % 2  # a frame's chunks follow its header
    raise damaged(f"it has more than {_MAX_WEBP_CHUNKS:,} chunks")


def _is_lossless(data: bytes, kind: bytes, start: int) -> bool:
    return kind == b"VP8L" or (kind == b"ALPH" and data[start] & 3 == 1)
