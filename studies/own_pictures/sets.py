"""The picture sets of the study, written as PNG files into a folder for each class."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from studies.page import ROOT

PACKAGES = ROOT / ".venv-others/lib"
"""The environment for other programs, which `make others` creates."""
DIGITS = "python3*/site-packages/sklearn/datasets/data/digits.csv.gz"
_FIGURES = ("circle", "square", "triangle", "ring", "cross")
_COLOURS = {
    "red": (220, 40, 40), "green": (40, 160, 60), "blue": (50, 70, 220), "yellow": (235, 215, 50),
    "purple": (140, 50, 170), "orange": (245, 140, 30), "cyan": (60, 200, 220), "brown": (120, 75, 45),
}  # fmt: skip
Colour = npt.NDArray[np.int64]  # [3]: red, green and blue, from 0 to 255
_GROUNDS = {"white": 245, "light": 195, "grey": 135, "dark": 70, "black": 15}


def digits(folder: Path) -> None:
    """Write the 1,797 handwritten digits that scikit-learn ships, 8 x 8 grey pixels, into folders 0 to 9.

    Raises:
        click.ClickException: scikit-learn is not in the environment for other programs.
    """
    file = next(PACKAGES.glob(DIGITS), None)
    if file is None:
        raise click.ClickException("scikit-learn is not installed: 'make others' sets up .venv-others.")
    rows = np.loadtxt(file, delimiter=",", dtype=np.int64)  # 64 pixels from 0 to 16, and the digit
    for number, (*pixels, digit) in enumerate(rows.tolist()):
        image = np.array(pixels).reshape(8, 8) * 255 // 16
        _save(Image.fromarray(image.astype(np.uint8)), folder / str(digit) / f"{number:04}.png")


def figures(folder: Path, counts: Mapping[str, int]) -> None:
    """Draw circles, squares and triangles of any colour and size: pictures for training, and 60 test pictures of each.

    Args:
        folder: The folder in which to write train/CLASS and test/CLASS.
        counts: Class -> number of training pictures, some of which become validation pictures.
    """
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, count in counts.items():
            for number in range(count if split == "train" else 60):
                ground, colour = random.integers(120, 256, 3), random.integers(0, 110, 3)
                _save(_figure(random, name, ground, colour), folder / split / name / f"{number:04}.png")


def many_figures(folder: Path, counts: Mapping[str, int], seed: int = 0) -> None:
    """Draw 200 classes, such as red-ring-on-grey: each of five figures in eight colours on five grounds.

    Args:
        folder: The folder in which to write a folder for each class, inside a folder for each split that has a name.
        counts: Pictures of each class, by split.
        seed: The seed of places, sizes and shades.
    """
    random = np.random.default_rng(seed)
    for figure, (colour, paint), (ground, grey) in product(_FIGURES, _COLOURS.items(), _GROUNDS.items()):
        for split, count in counts.items():
            for number in range(count):
                painted = np.clip(np.array(paint) + random.integers(-12, 13, 3), 0, 255)
                picture = _figure(random, figure, np.full(3, grey + random.integers(-8, 9)), painted)
                _save(picture, folder / split / f"{colour}-{figure}-on-{ground}" / f"{number:02}.png")


def _figure(random: np.random.Generator, name: str, ground: Colour, colour: Colour) -> Image.Image:
    """Draw a figure at a random place in a picture of 60 to 140 pixels."""
    width, height = random.integers(60, 141, 2).tolist()
    radius = int(min(width, height) * random.uniform(0.2, 0.42))
    x, y = int(random.integers(radius, width - radius)), int(random.integers(radius, height - radius))
    image = Image.new("RGB", (width, height), tuple(ground.tolist()))
    draw, fill, box = ImageDraw.Draw(image), tuple(colour.tolist()), (x - radius, y - radius, x + radius, y + radius)
    third = radius // 3
    if name == "circle":
        draw.ellipse(box, fill)
    elif name == "square":
        draw.rectangle(box, fill)
    elif name == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill)
    elif name == "ring":
        draw.ellipse(box, outline=fill, width=max(3, third))
    else:
        draw.rectangle((x - third, y - radius, x + third, y + radius), fill)
        draw.rectangle((x - radius, y - third, x + radius, y + third), fill)
    return image


def _save(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


@dataclass(frozen=True)
class PictureSet:
    """Pictures, and how a network learns them.

    Args:
        name: The name of the set, and of its model.
        what: What the pictures show, in a few words.
        write: Writes the pictures into a folder.
        network: The network's name for ``hangtag train``.
        options: Further options of ``hangtag train``.
    """

    name: str
    what: str
    write: Callable[[Path], None]
    network: str
    options: tuple[str, ...] = ()


_OWN = "studies.own_pictures.network:build"
SETS = (
    PictureSet("digits", "scikit-learn's digits, grey", digits, "cnn", ("--test-share", "0.2")),
    PictureSet(
        "figures",
        "3 figures in colour",
        lambda folder: figures(folder, {"circle": 200, "square": 200, "triangle": 200}),
        _OWN,
        ("--size", "48x48"),
    ),
    PictureSet(
        "rare-figures",
        "the same, 400, 120 and 24 of a class",
        lambda folder: figures(folder, {"circle": 400, "square": 120, "triangle": 24}),
        "cnn",
        ("--size", "48x48", "--balance", "--select", "balanced_accuracy"),
    ),
    PictureSet(
        "many-figures",
        "200 classes in colour",
        lambda folder: many_figures(folder, {"train": 24, "test": 4}),
        _OWN,
        ("--size", "48x48"),
    ),
)
