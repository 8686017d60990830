"""A file is decoded to the same grey pixels in every mode, and either completely or not at all."""

import io
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from hangtag.serving.server.classification.image_decoding import EncodedImage
from hangtag.serving.server.errors import InvalidRequestError, QueueFullError
from tests.kit.picture_files import chunk, compressed_zeros, encoded, png, png_header

Pixels = npt.NDArray[Any]

EXIF_ORIENTATION = 0x0112
ENDS_EARLY = "image file is truncated"
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ANY_PNG = [(bits, colours) for colours, depths in DEPTHS.items() for bits in depths]
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def decoded(data: bytes) -> Pixels:
    with EncodedImage(data).decoded(1) as grey:
        return np.asarray(grey)


def converted_whole(data: bytes) -> Pixels:
    """The expected pixels: the whole picture, turned upright and then converted to grey."""
    with Image.open(io.BytesIO(data)) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):
        return (np.asarray(image) >> 8).astype(np.uint8)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        transparent = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", transparent.size, "white"), transparent)
    return np.asarray(image.convert("L"))


def noise(mode: str, width: int = 701, height: int = 523) -> Image.Image:
    """A picture of noise with more pixels than the decoder converts to grey at a time."""
    random = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 1 << 16, (height, width), np.uint16))
    bands = [Image.fromarray(random.integers(0, 256, (height, width), np.uint8)) for _ in range(4)]
    if mode == "LA":
        return Image.merge("LA", bands[:2])
    if mode in ("RGBA", "CMYK"):
        return Image.merge(mode, bands)
    return Image.merge("RGB", bands[:3]).convert(mode)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize(
    ("mode", "format_", "options"),
    [
        *((mode, "PNG", {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        ("L", "PNG", {"transparency": 40}),
        ("P", "PNG", {"transparency": 7}),
        ("P", "PNG", {"transparency": bytes(range(256))}),
        ("RGB", "PNG", {"transparency": (1, 2, 3)}),
        ("1", "PNG", {"transparency": 0}),
        *((mode, "JPEG", {"progressive": progressive}) for mode in ("L", "RGB", "CMYK") for progressive in (0, 1)),
        ("RGB", "JPEG", {"subsampling": 0}),
        *((mode, "WEBP", {"lossless": lossless}) for mode in ("RGB", "RGBA") for lossless in (0, 1)),
    ],
)
def test_every_mode_gives_the_pixels_of_the_whole_picture_converted_at_once(
    mode: str, format_: str, options: dict[str, Any]
) -> None:
    size = (480, 600) if options.get("lossless") else (701, 523)
    data = encoded(noise(mode, *size), format_, **options)
    np.testing.assert_array_equal(decoded(data), converted_whole(data))


@pytest.mark.parametrize(("format_", "mode"), [("PNG", "RGBA"), ("JPEG", "RGB"), ("WEBP", "RGB"), ("PNG", "I;16")])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_way_of_holding_a_camera_gives_the_pixels_of_the_picture_turned_first(
    orientation: int, format_: str, mode: str
) -> None:
    data = encoded(noise(mode, 700, 401), format_, exif=turned(orientation))
    assert decoded(data).shape == ((401, 700) if orientation < 5 else (700, 401))
    np.testing.assert_array_equal(decoded(data), converted_whole(data))


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.format(6).encode()),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP.format(6).encode())),
        chunk(
            b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n26\n" + turned(6).tobytes().hex().encode())
        ),
    ],
    ids=["XMP", "compressed XMP", "profile"],
)
@pytest.mark.parametrize("after", [False, True])
def test_a_text_of_a_png_file_says_how_it_is_turned(text: bytes, after: bool) -> None:
    picture = encoded(noise("L", 30, 20))
    at = len(picture) - 12 if after else 33
    data = picture[:at] + text + picture[at:]
    assert decoded(data).shape == (30, 20)
    np.testing.assert_array_equal(decoded(data), converted_whole(data))


def test_other_chunks_of_a_png_file_and_many_of_its_data_change_nothing() -> None:
    picture = encoded(noise("L", 30, 20))
    profile = chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(200)))
    more = profile + chunk(b"gAMA", bytes(4)) + chunk(b"tEXt", b"Title\0a dress") + chunk(b"prVt", b"ours")
    start, end = picture.index(b"IDAT") + 4, len(picture) - 16
    pieces = [chunk(b"IDAT", picture[at : min(at + 7, end)]) for at in range(start, end, 7)]
    data = picture[: start - 8] + more + b"".join(pieces) + chunk(b"IDAT", b"") + picture[end + 4 :]
    np.testing.assert_array_equal(decoded(data), decoded(picture))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("bits", "colours"), ANY_PNG)
def test_a_png_picture_of_every_kind_is_decoded(bits: int, colours: int, interlaced: bool) -> None:
    whole = png(40, 30, bits, colours, interlaced=interlaced)
    assert decoded(whole).shape == (30, 40)
    with pytest.raises(InvalidRequestError, match=f"seems damaged: {ENDS_EARLY}"):
        decoded(with_data(whole, compressed_zeros(30)[:-5]))


def with_data(picture: bytes, data: bytes) -> bytes:
    """The PNG file with other contents in its first chunk of pixel data."""
    start = picture.index(b"IDAT") - 4
    end = start + 12 + int.from_bytes(picture[start : start + 4], "big")
    return picture[:start] + chunk(b"IDAT", data) + picture[end:]


@pytest.mark.parametrize(("format_", "end"), [("PNG", 20), ("WEBP", 0)])
def test_a_file_that_is_cut_anywhere_is_refused(format_: str, end: int) -> None:
    """A PNG file ends with checksums and an empty chunk, without which the picture is still complete."""
    data = encoded(noise("RGB", 24, 18), format_)
    for length in range(len(data) - end):
        with pytest.raises(InvalidRequestError, match="the image"):
            decoded(data[:length])


def empty_png(width: int, height: int, rows: bytes = b"") -> bytes:
    return png_header(width, height, 8, 0) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_wrong_byte(at: int) -> bytes:
    """A PNG file with a wrong byte. Its palette starts at byte 41; checksums protect the header and the palette."""
    data = bytearray(encoded(noise("P", 30, 20)))
    assert data[37:41] == b"PLTE"
    data[at] ^= 1
    return bytes(data)


DAMAGED, OTHER = "seems damaged", "the image is not a PNG, JPEG or WebP file; convert the file"
JPEG = encoded(noise("L", 99, 99), "JPEG")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"no image", OTHER),
        *((encoded(noise("L", 30, 20), format_), OTHER) for format_ in ("GIF", "BMP", "TIFF", "PPM", "ICO")),
        (b"\x89PNG\r\n\x1a\n", DAMAGED),
        (b"\xff\xd8\xff", DAMAGED),
        (b"RIFF\x04\0\0\0WEBP", DAMAGED),
        (JPEG[: len(JPEG) // 2], DAMAGED),
        *((with_wrong_byte(at), DAMAGED) for at in (23, 30, 50)),
        *((empty_png(*size), DAMAGED) for size in ((0, 5), (5, 0), (0, 0))),
        *(
            (empty_png(edge, edge, bytes(100)), f"{edge} x {edge} pixels; the limit is 50,000,000 pixels")
            for edge in (7100, 10_000, 60_000)
        ),
    ],
)
def test_what_is_no_whole_picture_or_too_large_is_refused_and_does_not_count_as_large(
    data: bytes, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        decoded(data)
    assert not EncodedImage(data).is_large


def test_large_pictures_wait_for_their_turn_and_give_it_back_though_they_cannot_be_decoded() -> None:
    large = png(6000, 4000, 16, 0)  # the memory for large pictures suffices for two of this size, but not for three
    assert EncodedImage(large).is_large
    for _ in range(3):
        with pytest.raises(InvalidRequestError, match=ENDS_EARLY):
            decoded(with_data(large, compressed_zeros(12_001)[:-5]))
    with EncodedImage(large).decoded(1), EncodedImage(large).decoded(1):
        with (
            pytest.raises(QueueFullError, match=r"too many large images at once: .* try again later"),
            EncodedImage(large).decoded(1, 0.01),
        ):
            pass
        assert decoded(encoded(noise("L", 28, 28))).shape == (28, 28)  # small pictures never wait
    assert decoded(large).shape == (4000, 6000)
