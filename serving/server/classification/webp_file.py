"""Reads the chunks of a WebP file, to know the memory that libwebp takes for its picture.

Pillow decodes every WebP as an animation: with two canvases of four bytes a pixel, a copy of one as bytes, and its own
image. A lossless picture, or a lossless transparency, takes Huffman tables in addition. Each block of 4 by 4 pixels may
have five tables of its own, of 1 KiB each, for 28 bits of the file, so that a file of 300 KB may take 350 MiB. How many
there are is known only to a decoder, so the most that there can be count.
"""

import struct
from collections.abc import Iterator

from hangtag.serving.server.classification.image_header import ImageHeader, damaged

_PIXEL_BYTES = 4
_CANVASES = 2
_LOSSLESS_PIXEL_BYTES = 6  # the lossless decoder's own picture, smaller ones, and the transparency taken from them
_FILE_COPIES = 3  # while Pillow joins the parts that it reads; then libwebp's own copy is left

_MAX_CHUNKS = 100_000

_MAX_GROUPS = 1 << 16
_BLOCK = 4
_GROUP_BYTES = 5_700  # five tables with codes of at most eight bits, and what refers to them
_GROUP_BITS = 28  # 20 for five tables of one code each, eight or more to refer to them
_LONGER_CODES_BYTES = 100  # of a byte of the file: tables with longer codes grow by less than 12 bytes for each bit,
_LARGEST_TABLES_BYTES = 16_000  # and by so much at most, with a colour cache of 2,048 entries


def read(data: bytes) -> ImageHeader:
    """Read the size of a WebP picture, and whether any part of it is lossless.

    Raises:
        InvalidRequestError: The file is damaged.
    """
    try:
        width, height = _size(data)
        lossless = max(
            (end - start for kind, start, end in _chunks(data) if _is_lossless(data, kind, start)), default=0
        )
    except (struct.error, IndexError):
        raise damaged("its header is wrong") from None
    pixels = width * height
    blocks = -(-width // _BLOCK) * -(-height // _BLOCK)
    groups = min(_MAX_GROUPS, blocks, lossless * 8 // _GROUP_BITS)
    tables = groups * _GROUP_BYTES + min(lossless * _LONGER_CODES_BYTES, groups * _LARGEST_TABLES_BYTES)
    copy = pixels * _PIXEL_BYTES
    # The lossless decoder has ended, and has freed its memory, when the canvas is copied and Pillow's image is made.
    lossless_decoder = pixels * (_LOSSLESS_PIXEL_BYTES - _PIXEL_BYTES) + tables if lossless else 0
    return ImageHeader(
        "WebP with a lossless part" if lossless else "WebP",
        width,
        height,
        decoded_bytes=pixels * _PIXEL_BYTES,
        decoder_bytes=max(copy, lossless_decoder, (_FILE_COPIES - 1) * len(data)),
        kept_bytes=pixels * _PIXEL_BYTES * _CANVASES + len(data),
        advice="Scale it down, or save it as a PNG." if lossless else "Scale it down, or save it as a JPEG.",
    )


def _size(data: bytes) -> tuple[int, int]:
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


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk, also of those in an animation's frames, and where its data starts and ends."""
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        kind, length = struct.unpack_from("<4sI", data, at)
        at += 8
        yield kind, at, min(at + length, len(data))
        at += 16 if kind == b"ANMF" else length + length % 2  # a frame's chunks follow its header
    raise damaged(f"it has more than {_MAX_CHUNKS:,} chunks")


def _is_lossless(data: bytes, kind: bytes, start: int) -> bool:
    return kind == b"VP8L" or (kind == b"ALPH" and data[start] & 3 == 1)
