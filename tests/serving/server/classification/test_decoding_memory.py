"""What decoding a picture gains in resident memory, whatever its size, mode and format: measured in a child process."""

import ctypes
import zlib
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.server.classification.image_decoding import EncodedImage
from hangtag.serving.server.errors import InvalidRequestError
from tests.kit import memory
from tests.kit.forkserver import CONTEXT, Forked
from tests.kit.picture_files import chunk, encoded, png, png_header, tiny_file_of_50_million_rows, webp_of_many_tables

pytestmark = pytest.mark.slow

MIB = 1 << 20
MOST = 250 * MIB
TAKEN = 240 * MIB
"""What decoding may take; the rest is what is not counted: bands of rows, tables, the allocator's own."""
UNCOUNTED = MOST - TAKEN
MOST_PIXELS = 50_000_000
EXIF_ORIENTATION = 0x0112

TURNED = Image.Exif()
TURNED[EXIF_ORIENTATION] = 6
HOLE = chunk(b"tRNS", bytes(6))

Write = Callable[[int, int], bytes]


def saved(mode: str, format_: str, **options: Any) -> Write:
    """Writes a plain picture, which takes as much memory as any other of its size."""
    return lambda width, height: encoded(Image.new(mode, (width, height)), format_, **options)


def png_of(bits: int, colours: int, *, interlaced: bool = False, more: bytes = b"") -> Write:
    return lambda width, height: png(width, height, bits, colours, interlaced=interlaced, more=more)


def transparent_webp(width: int, height: int) -> bytes:
    """A lossy WebP file, whose transparency is lossless."""
    image = Image.new("RGBA", (width, height), (200, 100, 50, 255))
    image.paste((0, 0, 0, 0), (0, 0, width // 2, height // 2))
    return encoded(image, "WEBP", method=0)


def animated_webp(width: int, height: int) -> bytes:
    first, second = (Image.new("RGB", (width, height), colour) for colour in ("red", "blue"))
    return encoded(first, "WEBP", method=0, save_all=True, append_images=[second])


KINDS: dict[str, tuple[int, Write]] = {
    # Bytes of a pixel, by which a large size is chosen, and what writes the file.
    **{
        f"PNG of colour type {colours}, {bits} bits": (
            2 if colours in (0, 3) and bits <= 8 else 5,
            png_of(bits, colours),
        )
        for colours, depths in {0: (1, 8, 16), 2: (8, 16), 3: (1, 8), 4: (8,), 6: (8, 16)}.items()
        for bits in depths
    },
    "PNG with a transparent colour": (5, png_of(8, 2, more=HOLE)),
    "PNG of 16 bits with a transparent grey": (5, png_of(16, 0, more=chunk(b"tRNS", bytes(2)))),
    "PNG with a transparent palette": (2, png_of(8, 3, more=chunk(b"tRNS", bytes(200)))),
    "interlaced PNG": (5, png_of(8, 6, interlaced=True)),
    "turned PNG": (5, png_of(8, 2, more=chunk(b"eXIf", TURNED.tobytes()[6:]))),
    "grey JPEG": (2, saved("L", "JPEG")),
    "JPEG": (5, saved("RGB", "JPEG")),
    "JPEG of whole colours": (5, saved("RGB", "JPEG", subsampling=0)),
    "turned JPEG": (5, saved("RGB", "JPEG", exif=TURNED)),
    "CMYK JPEG": (5, saved("CMYK", "JPEG")),
    "progressive grey JPEG": (3, saved("L", "JPEG", progressive=True)),
    "progressive JPEG": (7, saved("RGB", "JPEG", progressive=True)),
    "progressive JPEG of whole colours": (10, saved("RGB", "JPEG", progressive=True, subsampling=0)),
    "progressive CMYK JPEG": (12, saved("CMYK", "JPEG", progressive=True)),
    "WebP": (16, saved("RGB", "WEBP", method=0)),
    "lossless WebP": (16, saved("RGB", "WEBP", method=0, lossless=True)),
    "transparent WebP": (16, transparent_webp),
    "animated WebP": (16, animated_webp),
}


def prepare(data: bytes) -> None:
    """Decode a file as a classifier of garments does."""
    with EncodedImage(data).decoded(1) as picture:
        ImageSpec(28, 28, fit="garment").prepare(picture)


def answer(pipe: Connection) -> None:
    """Send for each picture that comes the bytes that it gained, those that it counts, and why it was refused."""
    for format_ in ("PNG", "JPEG", "WEBP"):  # loads what is loaded once
        prepare(encoded(Image.new("RGB", (100, 100)), format_))
    while True:
        data, counted, error = pipe.recv_bytes(), 0, ""
        ctypes.CDLL(None).malloc_trim(0)  # so that memory that the last one left does not hide what this one takes
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        before = memory.held()
        try:
            prepare(data)
            counted = EncodedImage(data).header.memory(1)
        except InvalidRequestError as refusal:
            error = str(refusal)
        pipe.send((memory.most_held() - before, counted, error))


Decode = Callable[[bytes], str]


@pytest.fixture(scope="module")
def decode() -> Iterator[Decode]:
    """Decodes a file, which must gain no more than it counts; returns the error, "" where it was decoded."""
    ours, theirs = CONTEXT.Pipe()

    def decode(data: bytes) -> str:
        ours.send_bytes(data)
        gained, counted, error = ours.recv()
        assert gained < min(counted + UNCOUNTED, MOST)  # one that is refused counts nothing
        return str(error)

    with Forked(answer, theirs), ours:
        theirs.close()
        yield decode


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_each_kind_gains_no_more_than_it_counts(kind: str, decode: Decode) -> None:
    pixel_bytes, write = KINDS[kind]
    pixels = min(TAKEN / pixel_bytes, MOST_PIXELS) * 0.3
    assert decode(write(3000, round(pixels / 3000))) == ""


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("PNG of colour type 6, 8 bits", (8000, 6200)),
        ("turned JPEG", (8160, 6120)),  # a phone's 50 megapixels
        ("progressive JPEG", (6900, 5200)),
        ("progressive CMYK JPEG", (5200, 4000)),
        ("PNG of colour type 6, 8 bits", (16_384, 2900)),
        ("PNG of colour type 6, 8 bits", (2900, 16_384)),
        ("animated WebP", (4500, 3450)),
    ],
)
def test_the_largest_pictures_are_taken(kind: str, size: tuple[int, int], decode: Decode) -> None:
    _, write = KINDS[kind]
    assert decode(write(*size)) == ""


def test_files_of_a_few_bytes_gain_nothing(decode: Decode) -> None:
    error = decode(tiny_file_of_50_million_rows())
    assert error == "the image has 1 x 50000000 pixels; edges of at most 16,384 pixels are taken. Scale it down."
    text = zlib.compress("\N{DRESS}".encode() + b"a" * (MIB - 10))  # one such character, and each takes four bytes
    texts = b"".join(chunk(b"iTXt", b"%d\0\1\0\0\0" % number + text) for number in range(62))
    assert decode(png(28, 28, 8, 0, more=texts)) == ""  # 256 MiB, if they were unpacked


@pytest.mark.parametrize("edge", [200, 700, 1000])
def test_a_webp_file_of_many_tables_gains_no_more_than_it_counts(edge: int, decode: Decode) -> None:
    error = decode(webp_of_many_tables(edge))
    assert error.startswith("the image, a WebP with a lossless part of 1000 x 1000 pixels, may take") is (edge == 1000)


def test_chunks_and_segments_of_no_use_gain_no_more_than_the_file(decode: Decode) -> None:
    picture = saved("L", "JPEG")(28, 28)
    error = decode(picture[:2] + b"\xff\xe9\0\2" * 1_000_000 + picture[2:])
    assert error == "the image cannot be decoded and seems damaged: it has more than 1,000 segments before its picture"
    chunks = b"".join(chunk(b"prVt", b"%d" % number) for number in range(90_000))
    assert decode(png_header(28, 28, 8, 0) + chunks + png(28, 28, 8, 0)[33:]) == ""


def test_a_jpeg_picture_of_more_scans_than_an_encoder_writes_is_refused(decode: Decode) -> None:
    picture = saved("L", "JPEG", progressive=True)(64, 64)
    first = picture.index(b"\xff\xda")
    error = decode(picture[:first] + picture[first:-2] * 101 + picture[-2:])
    assert "more than 100 scans" in error
