"""Reads the chunks of a PNG file that its picture needs. Pillow decodes only these, and never sees the other chunks.

Pillow keeps every chunk that it reads: a file of 70 KB may hold texts that unpack to 256 MiB. Pillow also takes the end
of the compressed data for the end of the picture, and leaves missing rows black.
"""

import struct
import zlib
from typing import NamedTuple

from PIL.PngImagePlugin import PngImageFile

from hangtag.serving.server.classification.image_header import ImageHeader, damaged

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PIECE = 1 << 16
_MOST_UNPACKED = 1 << 20
_MAX_CHUNKS = 100_000  # each takes time in Python, even without data; encoders put 4 KiB or more into each
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_BIT_DEPTHS = (1, 2, 4, 8, 16)
_GREY_OR_PALETTE = (0, 3)

_PICTURE = (b"PLTE", b"tRNS", b"eXIf")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION_KEYWORDS = (b"exif", b"Raw profile type exif", b"XML:com.adobe.xmp")  # where Pillow looks for it
_MOST_TEXT_BYTES = 5 << 20  # Pillow unpacks at most 1 MiB, into characters of up to four bytes

# Adam7: first column and row of each pass, and the distances between its columns and rows.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class _Parts(NamedTuple):
    """The positions of the data of the chunks that the picture needs."""

    data: list[slice]
    """The compressed data, in one or several chunks."""
    others: dict[bytes, slice]
    """The other chunks by kind, texts by keyword. If a kind occurs twice, which PNG forbids, Pillow uses the last."""


def read(data: bytes) -> ImageHeader:
    """Read the header of a PNG file, and the kinds and sizes of its chunks.

    Raises:
        InvalidRequestError: The file is damaged.
    """
    width, height, bits, colours, _ = _header(data)
    pixel_bytes = 1 if colours in _GREY_OR_PALETTE and bits <= 8 else 4
    parts = _parts(data)
    kept = sum(part.stop - part.start for part in [*parts.data, *parts.others.values()])
    return ImageHeader(
        PngImageFile,
        "PNG",
        width,
        height,
        decoded_bytes=width * height * pixel_bytes,
        decoder_bytes=kept,  # the parts are joined once more to check that they hold every row
        kept_bytes=kept + _MOST_TEXT_BYTES * sum(kind in _ORIENTATION_KEYWORDS for kind in parts.others),
    )


def picture(data: bytes) -> bytes:
    """Return the PNG file with only its picture, and all compressed data in one chunk.

    Raises:
        InvalidRequestError: The file is damaged.
    """
    parts = _parts(data)
    header = data[: len(SIGNATURE) + 25]
    others = (data[part.start - 8 : part.stop + 4] for part in parts.others.values())
    return b"".join((header, *others, _chunk(b"IDAT", _joined(data, parts.data)), _chunk(b"IEND", b"")))


def require_rows(data: bytes) -> None:
    """Check that a PNG file has every row, by unpacking its data without keeping it.

    Raises:
        InvalidRequestError: The data ends before the last row.
    """
    compressed, missing = memoryview(_joined(data, _parts(data).data)), _size_of_rows(data)
    unpack = zlib.decompressobj()
    for start in range(0, len(compressed), _PIECE):
        piece = compressed[start : start + _PIECE].tobytes()
        while piece and missing > 0:
            missing -= len(unpack.decompress(piece, _MOST_UNPACKED))
            piece = unpack.unconsumed_tail
    if missing > 0:
        raise damaged("its data ends before its last row")


def _joined(data: bytes, parts: list[slice]) -> bytes:
    whole = memoryview(data)
    return b"".join([whole[part] for part in parts])


def _header(data: bytes) -> tuple[int, int, int, int, int]:
    """Return the width, the height, the bits of a sample, the colour type, and whether the rows are interlaced."""
    try:
        length, kind, width, height, bits, colours, _, _, interlaced = struct.unpack_from(">I4sIIBBBBB", data, 8)
    except struct.error:
        raise damaged("its header is wrong") from None
    if (length, kind) != (13, b"IHDR") or bits not in _BIT_DEPTHS or colours not in _CHANNELS:
        raise damaged("its header is wrong")
    return width, height, bits, colours, interlaced


def _parts(data: bytes) -> _Parts:
    """Find the chunks that the picture needs. Raises InvalidRequestError if there is no chunk IEND."""
    parts, start = _Parts([], {}), len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        try:
            length, kind = struct.unpack_from(">I4s", data, start)
        except struct.error:
            raise damaged("it ends before its last chunk") from None
        part = slice(start + 8, start + 8 + length)
        start = part.stop + 4  # a checksum follows
        if start > len(data):
            raise damaged("it ends before its last chunk")
        if kind == b"IDAT":
            parts.data.append(part)
        elif kind in _PICTURE:
            parts.others[kind] = part
        elif kind in _TEXTS and (keyword := _keyword(data, part.start)):
            parts.others[keyword] = part
        elif kind == b"IEND":
            return parts
    raise damaged(f"it has more than {_MAX_CHUNKS:,} chunks")


def _keyword(data: bytes, start: int) -> bytes:
    """Return a text's keyword if the text may state the picture's rotation; b"" for any other text."""
    keyword = data[start : start + 80].partition(b"\0")[0]
    return keyword if keyword in _ORIENTATION_KEYWORDS else b""


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)))


def _size_of_rows(data: bytes) -> int:
    """Return the size to which the compressed data must unpack, in bytes. Each row starts with its filter's number."""
    width, height, bits, colours, interlaced = _header(data)

    def size(columns: int, rows: int) -> int:
        return rows * (1 + (columns * bits * _CHANNELS[colours] + 7) // 8) if columns > 0 else 0

    if not interlaced:
        return size(width, height)
    return sum(size(-((x - width) // dx), max(0, -((y - height) // dy))) for x, y, dx, dy in _PASSES)
