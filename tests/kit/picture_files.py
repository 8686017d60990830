"""Writes picture files, including tiny files of huge pictures, which no image library would write."""

import io
import struct
import zlib
from functools import cache
from itertools import chain
from typing import Any

import numpy.typing as npt
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""PNG's colour types, with the number of samples in a pixel."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_MIB = 1 << 20


def encoded(image: Image.Image | npt.NDArray[Any], format_: str = "PNG", **options: Any) -> bytes:
    """A picture's file as Pillow writes it, with these options."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format_, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file, with its checksum. ``kind`` has four letters."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colours: int, *, interlaced: bool = False, more: bytes = b"") -> bytes:
    """A PNG file whose pixels are zeros, in any mode.

    Args:
        width: The width in pixels.
        height: The height in pixels.
        bits: The number of bits in a sample.
        colours: The PNG colour type, a key of CHANNELS.
        interlaced: Whether the picture is interlaced, in seven passes.
        more: Chunks that precede the pixels.
    """
    size = sum(row_lengths(width, height, bits, colours, interlaced=interlaced))
    palette = chunk(b"PLTE", bytes(3 << min(bits, 8))) if colours == 3 else b""
    header = png_header(width, height, bits, colours, interlaced=interlaced)
    return header + palette + more + chunk(b"IDAT", compressed_zeros(size)) + chunk(b"IEND", b"")


def png_header(width: int, height: int, bits: int, colours: int, *, interlaced: bool = False) -> bytes:
    """The beginning of a PNG file."""
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlaced))


def row_lengths(width: int, height: int, bits: int, colours: int, *, interlaced: bool = False) -> list[int]:
    """The length of each row before compression, in the file's order: a byte for the filter, and the pixels."""
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in passes]
    lengths = [[1 + -(-columns * bits * CHANNELS[colours] // 8)] * rows for columns, rows in sizes if columns]
    return list(chain.from_iterable(lengths))


def compressed_zeros(size: int) -> bytes:
    """zlib's output for this many zeros, computed by compressing only 2 MiB of zeros."""
    whole, rest = divmod(size, _MIB)
    return b"\x78\x9c" + _block(_MIB) * whole + _block(rest, last=True) + struct.pack(">I", size % 65521 << 16 | 1)


@cache
def _block(size: int, *, last: bool = False) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(bytes(size)) + deflate.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)


def tiny_file_of_50_million_rows() -> bytes:
    """A PNG file of a few bytes with a picture that is one pixel wide."""
    return png_header(1, 50_000_000, 8, 0) + chunk(b"IDAT", zlib.compress(bytes(2))) + chunk(b"IEND", b"")


class _Bits:
    """Bits of a WebP stream, with the least significant bit first."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def add(self, value: int, count: int) -> None:
        self._bits.append(f"{value:0{count}b}"[::-1])

    def add_code(self, code: int) -> None:
        """A Huffman code of eight bits, with the most significant bit first."""
        self._bits.append(f"{code:08b}")

    def content(self) -> bytes:
        bits = "".join(self._bits)
        return bytes(int(bits[start : start + 8][::-1], 2) for start in range(0, len(bits), 8))


def webp_of_many_tables(edge: int) -> bytes:
    """A square lossless WebP file in which each block of 4 x 4 pixels has five Huffman tables.

    RFC 9649, section 3, defines the format. A block's tables have one symbol each, so the block's pixels take no bits.
    """
    bits = _Bits()
    for value, count in ((0x2F, 8), (edge - 1, 14), (edge - 1, 14), (0, 1), (0, 3), (0, 1), (0, 1), (1, 1), (0, 3)):
        bits.add(value, count)  # signature, size, no alpha, version, no transform, no cache, tables by blocks of 4 x 4
    blocks = (-(-edge // 4)) ** 2
    groups = min(blocks, 1 << 16)
    bits.add(0, 1)  # no colour cache; the entropy image stores a group's number in its red and green channels
    for symbols in (280, 256):
        _add_codes_of_eight_bits(bits, symbols)
    for _ in range(3):
        bits.add(0b0001, 4)  # a table with one symbol, 0, which needs no bits
    for block in range(blocks):
        bits.add_code(block % groups & 255)
        bits.add_code(block % groups >> 8)
    for _ in range(groups * 5):
        bits.add(0b0001, 4)
    stream = bits.content()
    stream += bytes(8 + len(stream) % 2)
    return b"RIFF" + struct.pack("<I", len(stream) + 12) + b"WEBPVP8L" + struct.pack("<I", len(stream)) + stream


def _add_codes_of_eight_bits(bits: _Bits, symbols: int) -> None:
    """Add a Huffman table in which the first 256 symbols have codes of eight bits, and the others have no code."""
    bits.add(0, 1)
    order = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8)
    bits.add(len(order) - 4, 4)
    for length in order:
        bits.add(int(length in (0, 8)), 3)
    bits.add(0, 1)
    for symbol in range(symbols):
        bits.add(int(symbol < 256), 1)
