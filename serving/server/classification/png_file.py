"""Reads the chunks of a PNG file that its picture needs; Pillow decodes them, and never sees the others.

Pillow keeps every chunk that it reads: a file of 70 KB may hold texts that unpack to 256 MiB. It also takes the end of
the compressed data for the end of the picture, and leaves the missing rows black.
"""

import struct
import zlib
from collections.abc import Iterator

from hangtag.serving.server.classification.image_header import ImageHeader, damaged

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PIECE = 1 << 16
_MOST_UNPACKED = 1 << 20
_MAX_CHUNKS = 100_000  # each takes Python's time, but may have no data; encoders write 4 KiB or more into one
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_BIT_DEPTHS = (1, 2, 4, 8, 16)
_GREY_OR_PALETTE = (0, 3)

_PICTURE = (b"PLTE", b"tRNS", b"eXIf")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION_KEYWORDS = (b"exif", b"Raw profile type exif", b"XML:com.adobe.xmp")  # where Pillow looks for it
_MOST_TEXT_BYTES = 5 << 20  # Pillow unpacks at most 1 MiB, into characters of up to four bytes

# Adam7: first column and row of each pass, and the distances between its columns and rows.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def read(data: bytes) -> ImageHeader:
    """Read the header of a PNG file, and the kinds and sizes of its chunks.

    Raises:
        InvalidRequestError: The file is damaged.
    """
    width, height, bits, colours, _ = _header(data)
    pixel_bytes = 1 if colours in _GREY_OR_PALETTE and bits <= 8 else 4
    kept = sum(end - start for kind, start, end in _chunks(data) if kind == b"IDAT" or kind in _PICTURE)
    texts = len({_keyword(data, start) for kind, start, _ in _chunks(data) if kind in _TEXTS} - {b""})
    return ImageHeader(
        "PNG",
        width,
        height,
        decoded_bytes=width * height * pixel_bytes,
        decoder_bytes=kept,  # joined once more to see that it holds every row
        kept_bytes=kept + texts * _MOST_TEXT_BYTES,
    )


def picture(data: bytes) -> bytes:
    """Return the PNG file with its picture alone, all compressed data in one chunk.

    Raises:
        InvalidRequestError: The file is damaged.
    """
    kept: dict[bytes, bytes] = {}  # of several chunks of a kind, which a PNG file must not have, Pillow takes the last
    for kind, start, end in _chunks(data):
        if kind in _PICTURE:
            kept[kind] = data[start - 8 : end + 4]
        elif kind in _TEXTS and (keyword := _keyword(data, start)):
            kept[keyword] = data[start - 8 : end + 4]
    header = data[: len(SIGNATURE) + 25]
    return b"".join((header, *kept.values(), _chunk(b"IDAT", _compressed(data)), _chunk(b"IEND", b"")))


def require_rows(data: bytes) -> None:
    """Unpack the data of a PNG file, without keeping it, to see that it holds every row.

    Raises:
        InvalidRequestError: It ends before the last row.
    """
    compressed, missing = memoryview(_compressed(data)), _size_of_rows(data)
    unpack = zlib.decompressobj()
    for start in range(0, len(compressed), _PIECE):
        piece = compressed[start : start + _PIECE].tobytes()
        while piece and missing > 0:
            missing -= len(unpack.decompress(piece, _MOST_UNPACKED))
            piece = unpack.unconsumed_tail
    if missing > 0:
        raise damaged("its data ends before its last row")


def _compressed(data: bytes) -> bytearray:
    compressed = bytearray()
    for kind, start, end in _chunks(data):
        if kind == b"IDAT":
            compressed += memoryview(data)[start:end]
    return compressed


def _header(data: bytes) -> tuple[int, int, int, int, int]:
    """Return the width, the height, the bits of a sample, the colour type, and whether the rows are interlaced."""
    try:
        length, kind, width, height, bits, colours, _, _, interlaced = struct.unpack_from(">I4sIIBBBBB", data, 8)
    except struct.error:
        raise damaged("its header is wrong") from None
    if (length, kind) != (13, b"IHDR") or bits not in _BIT_DEPTHS or colours not in _CHANNELS:
        raise damaged("its header is wrong")
    return width, height, bits, colours, interlaced


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk, and where its data starts and ends. Raises InvalidRequestError without an IEND."""
    start = len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        try:
            length, kind = struct.unpack_from(">I4s", data, start)
        except struct.error:
            raise damaged("it ends before its last chunk") from None
        start += 8
        end = start + length
        if end + 4 > len(data):  # a checksum follows
            raise damaged("it ends before its last chunk")
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end + 4
    raise damaged(f"it has more than {_MAX_CHUNKS:,} chunks")


def _keyword(data: bytes, start: int) -> bytes:
    """Return the keyword of a text that may say how the picture is turned; b"" for any other text."""
    keyword = data[start : start + 80].partition(b"\0")[0]
    return keyword if keyword in _ORIENTATION_KEYWORDS else b""


def _chunk(kind: bytes, content: bytes | bytearray) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)))


def _size_of_rows(data: bytes) -> int:
    """Return how many bytes the compressed data has to unpack to. Each row starts with the number of its filter."""
    width, height, bits, colours, interlaced = _header(data)

    def size(columns: int, rows: int) -> int:
        return rows * (1 + (columns * bits * _CHANNELS[colours] + 7) // 8) if columns > 0 else 0

    if not interlaced:
        return size(width, height)
    return sum(size(-((x - width) // dx), max(0, -((y - height) // dy))) for x, y, dx, dy in _PASSES)
