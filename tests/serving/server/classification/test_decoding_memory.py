"""Decoding a picture of any size, mode and format takes little memory, as measured in a child process."""

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
from tests.kit.picture_files import chunk, encoded, png, tiny_file_of_50_million_rows, webp_of_many_tables

pytestmark = pytest.mark.slow

MIB = 1 << 20
MOST = 410 * MIB
"""The limit of 400 MiB for decoding, plus 10 MiB for bands of rows, tables, and the allocator's own memory."""
EXIF_ORIENTATION = 0x0112

TURNED = Image.Exif()
TURNED[EXIF_ORIENTATION] = 6
HOLE = chunk(b"tRNS", bytes(6))

Write = Callable[[int, int], bytes]


def saved(mode: str, format_: str, **options: Any) -> Write:
    """Writes a plain picture. Its size alone determines how much memory it takes."""
    return lambda width, height: encoded(Image.new(mode, (width, height)), format_, **options)


def png_of(bits: int, colours: int, *, interlaced: bool = False, more: bytes = b"") -> Write:
    return lambda width, height: png(width, height, bits, colours, interlaced=interlaced, more=more)


def transparent_webp(width: int, height: int) -> bytes:
    """A lossy WebP file with lossless transparency."""
    image = Image.new("RGBA", (width, height), (200, 100, 50, 255))
    image.paste((0, 0, 0, 0), (0, 0, width // 2, height // 2))
    return encoded(image, "WEBP", method=0)


def animated_webp(width: int, height: int) -> bytes:
    first, second = (Image.new("RGB", (width, height), colour) for colour in ("red", "blue"))
    return encoded(first, "WEBP", method=0, save_all=True, append_images=[second])


LARGEST: dict[str, tuple[int, int, Write]] = {
    # For each kind of file, the width and height of the largest accepted picture, and a function that writes the file.
    "PNG of 16 bits": (8000, 6200, png_of(16, 0)),
    "PNG of 16 bits with a transparent grey": (8000, 6200, png_of(16, 0, more=chunk(b"tRNS", bytes(2)))),
    "PNG of 16 bits and four channels": (8000, 6200, png_of(16, 6)),
    "PNG with a transparent colour": (8000, 6200, png_of(8, 2, more=HOLE)),
    "PNG with a transparent palette": (8000, 6200, png_of(8, 3, more=chunk(b"tRNS", bytes(200)))),
    "interlaced PNG": (8000, 6200, png_of(8, 6, interlaced=True)),
    "turned PNG": (8000, 6200, png_of(8, 2, more=chunk(b"eXIf", TURNED.tobytes()[6:]))),
    "wide PNG": (16_384, 2900, png_of(8, 6)),
    "high PNG": (2900, 16_384, png_of(8, 6)),
    "JPEG of a phone": (8160, 6120, saved("RGB", "JPEG", exif=TURNED)),
    "CMYK JPEG": (8000, 6200, saved("CMYK", "JPEG")),
    "progressive JPEG": (6800, 5100, saved("RGB", "JPEG", progressive=True, subsampling=0)),
    "progressive CMYK JPEG": (6800, 5100, saved("CMYK", "JPEG", progressive=True)),
    "WebP": (5200, 4000, saved("RGB", "WEBP", method=0)),
    "animated WebP": (5200, 4000, animated_webp),
    "lossless WebP": (5000, 3900, saved("RGB", "WEBP", method=0, lossless=True)),
    "transparent WebP": (3600, 2700, transparent_webp),
}


def prepare(data: bytes) -> None:
    """Decode a file as the server does for a classifier of colour pictures."""
    with EncodedImage(data).decoded(3) as picture:
        ImageSpec(28, 28, channels=3, fit="crop").prepare(picture)


def answer(pipe: Connection) -> None:
    """Answer each picture with the number of bytes by which this process grew, and with the reason for a refusal."""
    for format_ in ("PNG", "JPEG", "WEBP"):  # load the decoders, which are otherwise loaded on first use
        prepare(encoded(Image.new("RGB", (100, 100)), format_))
    while True:
        data, error = pipe.recv_bytes(), ""
        # Otherwise, memory that the previous picture freed could hide this picture's growth.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak that the kernel measures
        before = memory.held()
        try:
            prepare(data)
        except InvalidRequestError as refusal:
            error = str(refusal)
        pipe.send((memory.most_held() - before, error))


Decode = Callable[[bytes], tuple[int, str]]


@pytest.fixture(scope="module")
def decode() -> Iterator[Decode]:
    """Decodes a file in a child process. Returns the bytes by which the process grew, and the error or ""."""
    ours, theirs = CONTEXT.Pipe()

    def decode(data: bytes) -> tuple[int, str]:
        ours.send_bytes(data)
        gained, error = ours.recv()
        return int(gained), str(error)

    with Forked(answer, theirs), ours:
        theirs.close()
        yield decode


@pytest.mark.parametrize("kind", LARGEST)
def test_the_largest_picture_of_each_kind_is_taken_and_gains_no_more_than_the_limit(kind: str, decode: Decode) -> None:
    width, height, write = LARGEST[kind]
    gained, error = decode(write(width, height))
    assert error == ""
    assert gained < MOST


def test_a_larger_picture_than_memory_allows_is_refused_before_it_is_decoded(decode: Decode) -> None:
    gained, error = decode(saved("L", "JPEG", progressive=True)(7000, 5100))
    assert error == (
        "decoding the image, of 7000 x 5100 pixels, may take 409 MiB of memory; the limit is 400 MiB. Scale the image "
        "down, or save it as a PNG or as a baseline JPEG."
    )
    assert gained < MIB


def test_files_of_a_few_bytes_gain_nothing(decode: Decode) -> None:
    gained, error = decode(tiny_file_of_50_million_rows())
    assert error == (
        "the image has 1 x 50000000 pixels; the limit is 50,000,000 pixels, and 16,384 pixels for an edge. "
        "Scale the image down."
    )
    assert gained < MIB


@pytest.mark.parametrize("texts", [8, 9, 62])
@pytest.mark.parametrize("after", [False, True])
def test_a_png_file_of_more_compressed_texts_than_eight_is_refused(texts: int, after: bool, decode: Decode) -> None:
    text = zlib.compress("\N{DRESS}".encode() + b"a" * (MIB - 10))  # Python then keeps 4 bytes per character
    chunks = b"".join(chunk(b"iTXt", b"%d\0\1\0\0\0" % number + text) for number in range(texts))
    picture = png(28, 28, 8, 0, more=b"" if after else chunks)
    gained, error = decode(picture[:-12] + (chunks if after else b"") + picture[-12:])
    assert error == ("" if texts == 8 else "the image cannot be decoded and seems damaged: it has too many parts")
    assert gained < 40 * MIB


@pytest.mark.parametrize("edge", [200, 700, 1000, 1100])
def test_a_webp_file_of_many_tables_gains_no_more_than_the_limit(edge: int, decode: Decode) -> None:
    gained, error = decode(webp_of_many_tables(edge))
    assert error.startswith(f"decoding the image, of {edge} x {edge} pixels, may take") is (edge == 1100)
    assert gained < (MIB if edge == 1100 else MOST)


def test_chunks_and_segments_of_no_use_gain_no_more_than_the_file(decode: Decode) -> None:
    picture = saved("L", "JPEG")(28, 28)
    gained, error = decode(picture[:2] + b"\xff\xe9\0\2" * 1_000_000 + picture[2:])
    assert error == "the image cannot be decoded and seems damaged: it has too many parts"
    assert gained < 10 * MIB
    picture, chunks = png(28, 28, 8, 0), chunk(b"prVt", b"ours") * 1_000_000
    for at in (33, len(picture) - 12):
        gained, error = decode(picture[:at] + chunks + picture[at:])
        assert error == "the image cannot be decoded and seems damaged: it has too many parts"
        assert gained < 30 * MIB


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_picture_of_more_scans_than_an_encoder_writes_is_refused(progressive: bool, decode: Decode) -> None:
    picture = saved("L", "JPEG", progressive=True)(64, 64)
    first = picture.index(b"\xff\xda")
    _, error = decode(picture[:first] + picture[first:-2] * 101 + picture[-2:])
    assert "more than 100 scans" in error
