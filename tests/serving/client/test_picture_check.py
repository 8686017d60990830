"""Warnings of blank and inverted pictures, measured on the real test set: they must hardly ever be wrong."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hangtag.cli import main
from hangtag.serving.client.picture_check import warning
from hangtag.serving.server.process.server import Server
from hangtag.training.data import fashion_mnist

Pixels = npt.NDArray[np.uint8]


def encoded(pixels: npt.NDArray[Any], format_: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_, **({"compress_level": 0} if format_ == "PNG" else {"quality": 90}))
    return file.getvalue()


def negated(pixels: Pixels) -> Pixels:
    return 255 - pixels


def photo_on_white(pixels: Pixels) -> Pixels:
    return enlarged(np.pad(negated(pixels), 8, constant_values=255))


def enlarged(pixels: Pixels) -> Pixels:
    return np.kron(pixels, np.ones((4, 4), np.uint8))


def dark_on_dark(pixels: Pixels) -> Pixels:
    """A garment below a background of 100."""
    return enlarged(np.where(pixels > 12, negated(pixels) // 4, 100).astype(np.uint8))


@pytest.fixture(scope="module")
def images() -> Pixels:
    return fashion_mnist.load_test().images


@pytest.mark.parametrize(
    ("made", "step", "expected"),
    [
        (np.asarray, 5, 0),
        (photo_on_white, 20, 0),
        (enlarged, 20, 0),
        (negated, 20, 500),
        (dark_on_dark, 20, 495),
    ],
)
def test_how_many_pictures_of_the_test_set_are_warned_of(
    images: Pixels, made: Callable[[Pixels], Pixels], step: int, expected: int
) -> None:
    """dark_on_dark: a very small garment changes the mean of its picture too little."""
    count = sum(bool(warning(encoded(made(image)), "single_label")) for image in images[::step])
    assert count == expected if made is not dark_on_dark else count >= expected


def test_the_outfits_that_ship_are_not_warned_of() -> None:
    files = sorted((Path(__file__).parents[3] / "examples/outfits").glob("*.png"))
    assert files
    assert not any(warning(file.read_bytes(), "multi_label") for file in files)


@pytest.mark.parametrize("tone", [0, 128, 255])
@pytest.mark.parametrize("size", [(28, 28), (1200, 900)])
@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_a_blank_picture_is_warned_of_in_spite_of_noise(tone: int, size: tuple[int, int], format_: str) -> None:
    noise = np.random.default_rng(0).normal(0, 4, size)
    assert "nearly blank" in warning(encoded(np.clip(tone + noise, 0, 255).astype(np.uint8), format_), "single_label")


def test_sixteen_bits_and_transparency_are_read_as_the_server_reads_them(garment: Path) -> None:
    with Image.open(garment) as image:
        pixels = np.asarray(image.convert("L"))
    assert not warning(encoded(pixels.astype(np.uint16) << 8), "single_label")
    ink = np.dstack([np.zeros((28, 28, 3), np.uint8), pixels])  # black, transparent where the background is
    assert "28 x 28 pixels is used as it is" in warning(encoded(ink), "single_label")


def test_what_cannot_be_decoded_is_left_to_the_server() -> None:
    assert not warning(b"no image", "single_label")


@pytest.fixture
def inverted(garment: Path, tmp_path: Path) -> Path:
    with Image.open(garment) as image:
        file = tmp_path / "inverted.png"
        Image.fromarray(negated(np.asarray(image.convert("L")))).save(file)
    return file


def classify(server: Server, *arguments: object) -> Result:
    command = ["classify", "--server", server.address, *map(str, arguments)]
    return CliRunner().invoke(main, command, env={"COLUMNS": "300"})


def test_the_warning_stands_beside_the_label(server: Server, garment: Path, inverted: Path) -> None:
    result = classify(server, garment, inverted, "--model", "classifier")
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = result.stdout.split("inverted.png")
    assert "WARNING" not in first
    assert "WARNING the picture seems inverted: " in second


@pytest.mark.parametrize("more", [(), ("--model", "gather")], ids=["one model", "two, one of which fails"])
def test_the_warning_is_part_of_the_json(server: Server, garment: Path, inverted: Path, more: tuple[str, ...]) -> None:
    result = classify(server, garment, inverted, "--json", "--model", "classifier", *more)
    good, bad = map(json.loads, result.stdout.splitlines())
    assert "warning" not in good
    assert bad["warning"].startswith("the picture seems inverted: ")
