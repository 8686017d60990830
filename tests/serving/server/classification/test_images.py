"""From a file's bytes to the pixels that a model gets: the same for every mode, all rows or none, trimmed or whole."""

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageOps

from hangtag.serving.server.classification.image_decoding import decoded_grey, is_large
from hangtag.serving.server.classification.image_preprocessing import preprocess
from hangtag.serving.server.errors import InvalidRequestError, QueueFullError
from tests.kit.picture_files import (
    chunk,
    compressed_zeros,
    encoded,
    png,
    png_header,
    row_lengths,
)

Pixels = npt.NDArray[Any]

GARMENTS = sorted((Path(__file__).parents[4] / "examples/garments").glob("*.png"))
DATASET = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
EXIF_ORIENTATION = 0x0112
ENDS_EARLY = "its data ends before its last row"
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ANY_PNG = [(bits, colours) for colours, depths in DEPTHS.items() for bits in depths]
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def decoded(data: bytes) -> Pixels:
    with decoded_grey(data) as grey:
        return np.asarray(grey)


def converted_whole(data: bytes) -> Pixels:
    """What decoding has to give: the picture turned upright, and then converted to grey at once."""
    with Image.open(io.BytesIO(data)) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):
        return (np.asarray(image) >> 8).astype(np.uint8)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        transparent = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", transparent.size, "white"), transparent)
    return np.asarray(image.convert("L"))


def noise(mode: str, width: int = 701, height: int = 523) -> Image.Image:
    """More pixels than are converted to grey at once."""
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
@pytest.mark.parametrize("size", [(40, 30), (1, 9), (9, 1), (5, 5)])
def test_a_png_picture_that_lacks_rows_is_refused(
    size: tuple[int, int], bits: int, colours: int, interlaced: bool
) -> None:
    """Pillow ends where a row and the data end together."""
    whole = png(*size, bits, colours, interlaced=interlaced)
    assert decoded(whole).shape == size[::-1]
    *rows, last = row_lengths(*size, bits, colours, interlaced=interlaced)
    for present in (sum(rows), sum(rows[: len(rows) // 2]), sum(rows) + last - 1):
        with pytest.raises(InvalidRequestError, match=rf"seems damaged: ({ENDS_EARLY}|image file is truncated)"):
            decoded(with_data(whole, compressed_zeros(present)))


def with_data(picture: bytes, data: bytes) -> bytes:
    """A PNG file with other data in the place of its first chunk of data."""
    start = picture.index(b"IDAT") - 4
    end = start + 12 + int.from_bytes(picture[start : start + 4], "big")
    return picture[:start] + chunk(b"IDAT", data) + picture[end:]


def test_an_animated_png_picture_that_lacks_rows_is_refused() -> None:
    frames = [Image.new("L", (40, 30), colour) for colour in (0, 255)]
    whole = encoded(frames[0], save_all=True, append_images=frames[1:])
    assert (decoded(whole) == 0).all()
    with pytest.raises(InvalidRequestError, match=ENDS_EARLY):
        decoded(with_data(whole, compressed_zeros(29 * 41)))


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_a_file_that_is_cut_anywhere_is_refused(format_: str) -> None:
    data = encoded(noise("RGB", 24, 18), format_)
    for length in range(len(data)):
        with pytest.raises(InvalidRequestError, match="the image"):
            decoded(data[:length])


def empty_png(width: int, height: int, rows: bytes = b"") -> bytes:
    return png_header(width, height, 8, 0) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_wrong_byte(at: int) -> bytes:
    """A PNG file whose palette starts at byte 41, and whose checksums show a damage of it and of the header."""
    data = bytearray(encoded(noise("P", 30, 20)))
    assert data[37:41] == b"PLTE"
    data[at] ^= 1
    return bytes(data)


DAMAGED, OTHER = "seems damaged", "the image is not a PNG, JPEG or WebP file; convert it"
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
            (empty_png(edge, edge, bytes(100)), f"{edge} x {edge} pixels; at most 50,000,000 are taken")
            for edge in (7100, 10_000, 60_000)
        ),
    ],
)
def test_what_is_no_whole_picture_or_too_large_is_refused_and_does_not_count_as_large(
    data: bytes, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        decoded(data)
    assert not is_large(data)


def test_large_pictures_wait_for_their_turn_and_give_it_back_though_they_cannot_be_decoded() -> None:
    large = png(6000, 5000, 16, 0)  # the memory for large pictures holds two of them, but not three
    assert is_large(large)
    for _ in range(3):
        with pytest.raises(InvalidRequestError, match=ENDS_EARLY):
            decoded(with_data(large, compressed_zeros(12_001)))
    with decoded_grey(large), decoded_grey(large):
        with (
            pytest.raises(QueueFullError, match=r"too many large images at once: .* try again later"),
            decoded_grey(large, 0.01),
        ):
            pass
        assert decoded(encoded(noise("L", 28, 28))).shape == (28, 28)  # a small one does not wait
    assert decoded(large).shape == (5000, 6000)


def preprocessed(image: Image.Image, format_: str = "PNG", **options: Any) -> Pixels:
    return preprocess(encoded(image, format_, **options), 28, 28)


def photo(background: int, garment: int, *, mode: str = "RGB") -> Image.Image:
    """A portrait photo of a plain rectangle, 120 wide and 200 high, a little off the centre."""
    image = Image.new("L", (400, 300), background)
    ImageDraw.Draw(image).rectangle((150, 60, 269, 259), fill=garment)
    return image.convert(mode)


def random_pixels(seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (28, 28), dtype=np.uint8)


def test_the_shipped_garments_are_the_data_sets_pixels() -> None:
    if not DATASET.is_file():
        pytest.fail(f"{DATASET} is missing: sudo apt-get install dataset-fashion-mnist")
    contents = gzip.decompress(DATASET.read_bytes())
    known = {contents[start : start + 784] for start in range(16, len(contents), 784)}
    assert len(GARMENTS) >= 10
    for garment in GARMENTS:
        assert preprocess(garment.read_bytes(), 28, 28).tobytes() in known


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("PNG", {"optimize": True}),
        ("WEBP", {"lossless": True}),
        ("PNG", {"save_all": True}),  # an animation gives its first picture
        ("WEBP", {"lossless": True, "save_all": True}),
    ],
)
def test_a_picture_of_the_models_size_is_taken_untouched(format_: str, options: dict[str, Any]) -> None:
    pixels = random_pixels()
    more = [Image.fromarray(random_pixels(seed)) for seed in (1, 2)] if "save_all" in options else []
    result = preprocessed(Image.fromarray(pixels), format_, append_images=more, **options)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, pixels)


def test_grey_pixels_are_the_same_in_every_mode() -> None:
    pixels = random_pixels()
    image = Image.fromarray(pixels)
    sixteen_bits = Image.fromarray(pixels.astype(np.uint16) * 256 + 7)  # scaled, not cut off
    for stored in (image, image.convert("RGB"), image.convert("P"), sixteen_bits):
        np.testing.assert_array_equal(preprocessed(stored), pixels)
    black_and_white = np.where(pixels > 127, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(preprocessed(image.convert("1", dither=Image.Dither.NONE)), black_and_white)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("background", "garment"), [(255, 60), (250, 60), (0, 195), (8, 195)])
def test_a_photo_becomes_a_bright_garment_on_black_from_edge_to_edge(
    format_: str, background: int, garment: int
) -> None:
    pixels = preprocessed(photo(background, garment), format_)
    assert pixels.shape == (28, 28)
    filled = pixels > 128
    assert filled[:, 14].sum() >= 26  # 200 high of 200: 28 rows, the outermost blurred
    assert 15 <= filled[14].sum() <= 18  # 120 wide: 17 columns
    assert abs(int(np.flatnonzero(filled[14]).mean()) - 13.5) <= 1  # in the middle
    assert pixels[:, :4].max() < 16
    assert pixels[:, -4:].max() < 16


def test_a_cut_out_lies_on_white() -> None:
    image = photo(0, 60, mode="RGBA")
    alpha = np.asarray(image.convert("L")) > 30
    image.putalpha(Image.fromarray((alpha * 255).astype(np.uint8)))
    np.testing.assert_array_equal(preprocessed(image), preprocessed(photo(255, 60)))


@pytest.mark.parametrize("size", [(1, 1), (1, 28), (28, 1), (2000, 3), (3, 2000), (5000, 1), (27, 29), (56, 56)])
@pytest.mark.parametrize("colour", ["white", "black", "#808080"])
@pytest.mark.parametrize("keep_whole", [False, True])
def test_blank_pictures_of_any_size_are_black(size: tuple[int, int], colour: str, keep_whole: bool) -> None:
    pixels = preprocess(encoded(Image.new("RGB", size, colour)), 28, 28, whole=keep_whole)
    assert pixels.shape == (28, 28)
    if colour != "#808080":
        assert not pixels.any()
    elif not keep_whole:
        assert len(np.unique(pixels)) == 1


@pytest.mark.parametrize("size", [(1000, 40), (40, 1000), (73, 73), (29, 29), (9, 9)])
def test_the_longest_edge_fills_the_picture(size: tuple[int, int]) -> None:
    image = Image.new("L", (size[0] + 20, size[1] + 20), 255)
    ImageDraw.Draw(image).rectangle((10, 10, size[0] + 9, size[1] + 9), fill=0)
    filled = preprocessed(image) > 100
    assert filled.any(axis=1 if size[1] >= size[0] else 0).all()


def test_another_models_size_is_honoured() -> None:
    pixels = preprocess(encoded(photo(255, 0)), 32, 48)
    assert pixels.shape == (32, 48)
    assert (pixels[:, 24] > 128).sum() >= 30


def test_pillows_own_limit_belongs_to_the_program_and_decides_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert preprocessed(Image.fromarray(random_pixels())).shape == (28, 28)
    assert Image.MAX_IMAGE_PIXELS == 10


def scene(*garments: tuple[int, int, int, int], size: tuple[int, int] = (128, 128), background: int = 0) -> Image.Image:
    """Plain garments (left, top, right, bottom) in a picture of this width and height."""
    image = Image.new("L", size, background)
    for left, top, right, bottom in garments:
        image.paste(255 - background, (left, top, right, bottom))
    return image


def whole(image: Image.Image, height: int = 64, width: int = 64) -> Pixels:
    return preprocess(encoded(image), height, width, whole=True)


def extent(pixels: Pixels) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is bright."""
    rows, columns = np.flatnonzero((pixels > 128).any(axis=1)), np.flatnonzero((pixels > 128).any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def test_a_whole_picture_is_reduced_with_everything_in_its_place() -> None:
    """Two garments apart from the edge: nothing is trimmed, nothing moved to the centre."""
    pixels = whole(scene((20, 40, 40, 60), (80, 10, 100, 50)))
    assert pixels.shape == (64, 64)
    assert extent(pixels) == (10, 5, 50, 30)
    assert pixels[25, 15] > 250
    assert pixels[15, 45] > 250
    assert pixels[25, 30] < 5
    # The longer side fills the picture; the shorter is centred, and filled up with the background.
    assert extent(whole(scene((20, 20, 60, 60), size=(128, 64)))) == (10, 26, 30, 46)
    assert extent(whole(scene((20, 20, 60, 60), size=(64, 128)))) == (26, 10, 46, 30)


def test_a_small_whole_picture_is_not_enlarged() -> None:
    """The data set's own images are 28 pixels wide, as garments on a canvas are, and stay so."""
    garment = np.asarray(Image.open(GARMENTS[0]))
    expected = np.zeros((64, 64), np.uint8)
    expected[18:46, 18:46] = garment
    np.testing.assert_array_equal(whole(Image.fromarray(garment)), expected)


def test_a_bright_background_is_negated_though_a_garment_lies_in_a_corner() -> None:
    pixels = whole(scene((0, 0, 50, 50), (100, 0, 128, 30), (0, 100, 40, 128), background=255))
    assert pixels[10, 10] > 250
    assert pixels[40, 40] < 5
