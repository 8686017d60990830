"""``hangtag classify`` draws pictures in the terminal, and warns of blank or inverted pictures.

The tests count the warnings for real test images, because false warnings must be very rare."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from PIL import Image

from hangtag.serving.server.process.server import Server
from hangtag.training.data import fashion_mnist
from tests.kit import onnx_label_sets, onnx_models
from tests.kit.command import invoke
from tests.kit.picture_files import encoded
from tests.kit.server import server as running_server

Pixels = npt.NDArray[np.uint8]
EXAMPLES = Path(__file__).parents[3] / "examples"


def negated(pixels: Pixels) -> Pixels:
    return 255 - pixels


def photo_on_white(pixels: Pixels) -> Pixels:
    return enlarged(np.pad(negated(pixels), 8, constant_values=255))


def enlarged(pixels: Pixels) -> Pixels:
    return np.kron(pixels, np.ones((4, 4), np.uint8))


def dark_on_dark(pixels: Pixels) -> Pixels:
    """A dark garment on a background with the brightness 100."""
    return enlarged(np.where(pixels > 12, negated(pixels) // 4, 100).astype(np.uint8))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with single-label and multi-label models, and with a model that is no classifier."""
    models = onnx_models.publish_all(tmp_path_factory.mktemp("models"), "classifier", "gather")
    onnx_label_sets.publish_all(models)
    with running_server(models, http_port=-1) as running:
        yield running


def classify(server: Server, *arguments: object, model: str = "classifier", **variables: str) -> Result:
    command = ("classify", "--server", server.address, *arguments, "--model", model)
    return invoke(*command, exit_code=int("gather" in arguments), columns=300, variables=variables)


def warnings(server: Server, folder: Path, pictures: Iterable[bytes] = (), **more: str) -> list[str]:
    """Add the pictures to the folder, and return the command's warning about each file: "" if there is none."""
    for number, picture in enumerate(pictures):
        (folder / f"{number:04}.png").write_bytes(picture)
    lines = classify(server, folder, "--json", **more).stdout.splitlines()
    return [json.loads(line).get("warning", "") for line in lines]


@pytest.mark.parametrize(
    ("change", "least"),
    [
        *((change, 0) for change in (np.asarray, photo_on_white, enlarged)),
        (negated, 100),
        (dark_on_dark, 98),  # a very small garment hardly changes the mean brightness
    ],
)
def test_how_many_of_a_hundred_pictures_of_the_test_set_are_warned_of(
    server: Server, tmp_path: Path, change: Callable[[Pixels], Pixels], least: int
) -> None:
    images = fashion_mnist.load_test().images[::100]
    warned = warnings(server, tmp_path, (encoded(change(image)) for image in images))
    assert (len(warned), least <= sum(map(bool, warned)) <= (100 if least else 0)) == (100, True)


def test_the_outfits_that_ship_are_not_warned_of(server: Server) -> None:
    assert set(warnings(server, EXAMPLES / "outfits", model="half")) == {""}


def test_a_blank_picture_is_warned_of_in_spite_of_noise(server: Server, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    blank = [
        encoded(np.clip(tone + draw.normal(0, 4, size), 0, 255).astype(np.uint8), format_)
        for tone, size, format_ in itertools.product((0, 128, 255), ((28, 28), (400, 300)), ("PNG", "JPEG"))
    ]
    assert all("nearly blank" in warning for warning in warnings(server, tmp_path, blank))


def test_sixteen_bits_and_transparency_are_read_as_the_server_reads_them(
    server: Server, garment: Path, tmp_path: Path
) -> None:
    with Image.open(garment) as image:
        pixels = np.asarray(image.convert("L"))
    ink = np.dstack([np.zeros((28, 28, 3), np.uint8), pixels])  # black ink on a transparent background
    of_bits, of_ink = warnings(server, tmp_path, [encoded(pixels.astype(np.uint16) << 8), encoded(ink)])
    assert (of_bits, "28 x 28 pixels" in of_ink) == ("", True)


@pytest.mark.parametrize("more", [(), ("--model", "gather")], ids=["one model", "two, one of which fails"])
def test_the_warning_stands_with_the_labels_and_in_the_json(
    server: Server, garment: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    inverted = tmp_path / "inverted.png"
    with Image.open(garment) as image:
        inverted.write_bytes(encoded(negated(np.asarray(image.convert("L")))))
    first, second = classify(server, garment, inverted, *more).stdout.split("inverted.png")
    assert "WARNING" not in first
    assert "WARNING the picture seems inverted: " in second
    good, bad = map(json.loads, classify(server, garment, inverted, "--json", *more).stdout.splitlines())
    assert "warning" not in good
    assert bad["warning"].startswith("the picture seems inverted: ")


COLOURS = {"FORCE_COLOR": "1", "COLORTERM": "truecolor"}


def test_a_picture_is_drawn_with_the_option_and_colours(server: Server, garment: Path) -> None:
    plain, drawn = (classify(server, garment, option, **COLOURS).stdout for option in ("--no-draw", "--draw"))
    assert "▀" not in plain
    assert any("▀" in line and "%" in line for line in drawn.splitlines())
    assert len(drawn.splitlines()) == 14 + 1  # two rows of pixels per line
    assert classify(server, garment, "--draw").stdout.count("\n") == plain.count("\n")


def test_two_rows_of_pixels_make_a_line_whatever_the_size(server: Server, tmp_path: Path) -> None:
    pixels = np.zeros((28, 28, 3), np.uint8)
    pixels[0], pixels[1], pixels[2:4] = (1, 2, 3), (4, 5, 6), 255
    (tmp_path / "picture.png").write_bytes(encoded(pixels))
    first = classify(server, tmp_path / "picture.png", "--draw", **COLOURS).stdout.splitlines()[0]
    assert "38;2;1;2;3;48;2;4;5;6m▀" in first
    for width, height in ((1, 1), (3, 2), (2000, 1), (1, 2000), (40, 27)):
        (tmp_path / "picture.png").write_bytes(encoded(np.full((height, width, 3), (255, 0, 0), np.uint8)))
        assert "▀" in classify(server, tmp_path / "picture.png", "--draw", **COLOURS).stdout
