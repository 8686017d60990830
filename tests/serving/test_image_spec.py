import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.server.classification.image_decoding import EncodedImage
from tests.kit.picture_files import encoded

Pixels = npt.NDArray[np.uint8]
GARMENTS = sorted((Path(__file__).parents[2] / "examples/garments").glob("*.png"))
DATASET = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")


def prepared(data: bytes, height: int, width: int, *, whole: bool = False) -> Pixels:
    """Prepare a picture as the server does for a model of garments."""
    with EncodedImage(data).decoded(1) as picture:
        return ImageSpec(height, width, fit="garment").prepare(picture, whole=whole)


def decoded(image: Image.Image, format_: str = "PNG", **options: Any) -> Pixels:
    return prepared(encoded(image, format_, **options), 28, 28)


def photo(background: int, garment: int) -> Image.Image:
    """A photo of a plain rectangle, 120 pixels wide and 200 high, slightly off the centre."""
    image = Image.new("L", (400, 300), background)
    ImageDraw.Draw(image).rectangle((150, 60, 269, 259), fill=garment)
    return image.convert("RGB")


def random_pixels(seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (28, 28), dtype=np.uint8)


def test_the_shipped_garments_are_the_data_sets_pixels() -> None:
    if not DATASET.is_file():
        pytest.fail(f"{DATASET} is missing: sudo apt-get install dataset-fashion-mnist")
    contents = gzip.decompress(DATASET.read_bytes())
    known = {contents[start : start + 784] for start in range(16, len(contents), 784)}
    assert len(GARMENTS) >= 10
    for garment in GARMENTS:
        assert prepared(garment.read_bytes(), 28, 28).tobytes() in known


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("PNG", {"optimize": True}),
        ("WEBP", {"lossless": True}),
        ("PNG", {"save_all": True}),  # only the first picture of an animation is read
        ("WEBP", {"lossless": True, "save_all": True}),
    ],
)
def test_a_picture_of_the_models_size_is_taken_untouched(format_: str, options: dict[str, Any]) -> None:
    pixels = random_pixels()
    more = [Image.fromarray(random_pixels(seed)) for seed in (1, 2)] if "save_all" in options else []
    result = decoded(Image.fromarray(pixels), format_, append_images=more, **options)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("background", "garment"), [(255, 60), (250, 60), (0, 195), (8, 195)])
def test_a_photo_becomes_a_bright_garment_on_black_from_edge_to_edge(
    format_: str, background: int, garment: int
) -> None:
    pixels = decoded(photo(background, garment), format_)
    assert pixels.shape == (28, 28)
    filled = pixels > 128
    assert filled[:, 14].sum() >= 26  # The garment fills all 28 rows, of which the outermost are blurred.
    assert 15 <= filled[14].sum() <= 18  # Its width of 120 pixels becomes 17 columns.
    assert abs(int(np.flatnonzero(filled[14]).mean()) - 13.5) <= 1  # These columns are in the middle.
    assert pixels[:, :4].max() < 16
    assert pixels[:, -4:].max() < 16


@pytest.mark.parametrize("size", [(1, 1), (1, 28), (28, 1), (2000, 3), (3, 2000), (5000, 1), (27, 29), (56, 56)])
@pytest.mark.parametrize("colour", ["white", "black", "#808080"])
@pytest.mark.parametrize("keep_whole", [False, True])
def test_blank_pictures_of_any_size_are_black(size: tuple[int, int], colour: str, keep_whole: bool) -> None:
    pixels = prepared(encoded(Image.new("RGB", size, colour)), 28, 28, whole=keep_whole)
    assert pixels.shape == (28, 28)
    if colour != "#808080":
        assert not pixels.any()
    elif not keep_whole:
        assert len(np.unique(pixels)) == 1


@pytest.mark.parametrize("size", [(1000, 40), (40, 1000), (73, 73), (29, 29), (9, 9)])
def test_the_longest_edge_fills_the_picture(size: tuple[int, int]) -> None:
    image = Image.new("L", (size[0] + 20, size[1] + 20), 255)
    ImageDraw.Draw(image).rectangle((10, 10, size[0] + 9, size[1] + 9), fill=0)
    filled = decoded(image) > 100
    assert filled.any(axis=1 if size[1] >= size[0] else 0).all()


def test_pillows_own_limit_belongs_to_the_program_and_decides_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decoded(Image.fromarray(random_pixels())).shape == (28, 28)
    assert Image.MAX_IMAGE_PIXELS == 10


def scene(*garments: tuple[int, int, int, int], size: tuple[int, int] = (128, 128), background: int = 0) -> Image.Image:
    """A picture of this width and height with plain garments, each given by its left, top, right and bottom edges."""
    image = Image.new("L", size, background)
    for left, top, right, bottom in garments:
        image.paste(255 - background, (left, top, right, bottom))
    return image


def whole(image: Image.Image, height: int = 64, width: int = 64) -> Pixels:
    return prepared(encoded(image), height, width, whole=True)


def extent(pixels: Pixels) -> tuple[int, int, int, int]:
    """The left, top, right and bottom edges of the bright area."""
    rows, columns = np.flatnonzero((pixels > 128).any(axis=1)), np.flatnonzero((pixels > 128).any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def test_a_whole_picture_is_reduced_with_everything_in_its_place() -> None:
    """The two garments are away from the picture's edges, but the picture is neither trimmed nor centred."""
    pixels = whole(scene((20, 40, 40, 60), (80, 10, 100, 50)))
    assert pixels.shape == (64, 64)
    assert extent(pixels) == (10, 5, 50, 30)
    assert pixels[25, 15] > 250
    assert pixels[15, 45] > 250
    assert pixels[25, 30] < 5
    # The longer side of a picture fills the model's input. The shorter side is centred and padded with the background's
    # colour.
    assert extent(whole(scene((20, 20, 60, 60), size=(128, 64)))) == (10, 26, 30, 46)
    assert extent(whole(scene((20, 20, 60, 60), size=(64, 128)))) == (26, 10, 46, 30)


def test_a_small_whole_picture_is_not_enlarged() -> None:
    """A garment is drawn 28 pixels wide on the canvas, and the data set's images already have this width."""
    garment = np.asarray(Image.open(GARMENTS[0]))
    expected = np.zeros((64, 64), np.uint8)
    expected[18:46, 18:46] = garment
    np.testing.assert_array_equal(whole(Image.fromarray(garment)), expected)


def test_a_bright_background_is_negated_though_a_garment_lies_in_a_corner() -> None:
    pixels = whole(scene((0, 0, 50, 50), (100, 0, 128, 30), (0, 100, 40, 128), background=255))
    assert pixels[10, 10] > 250
    assert pixels[40, 40] < 5
