"""The data set ``outfits``: canvases with garments that are worn together, composed from Fashion-MNIST's images.

A canvas of ``outfits`` shows one of the looks in ``LOOKS``, so a garment makes other garments more or less likely.
In the control, ``outfits-independent``, each label has the same frequency as in ``outfits``, and a canvas has about as
many labels, but the labels are drawn independently of each other.

A canvas shows overlapping garments of random scale, contrast and position among clutter. Sample i of a split does not
depend on how many samples are composed. The garments of a split come from the same split of Fashion-MNIST.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.dataset import Dataset, Images, LabelSets, Split
from hangtag.training.data.fashion_mnist import LABELS

NAMES = ("outfits", "outfits-independent")
CANVAS_SIZE = 64  # height and width
GARMENT_SIZES = (12, 28)  # the smallest and the largest side, in pixels
CONTRAST = (0.4, 1.0)  # the smallest and the largest factor of a garment's brightness
SCRAPS = 4  # the largest number of pieces of clutter on a canvas
SCRAP_SIZES = (5, 14)
# pixels of at least this brightness are opaque, darker pixels are translucent, and black pixels are transparent
OPAQUE = 40
Canvas = npt.NDArray[np.uint8]  # [64, 64]
IMAGE = ImageSpec(CANVAS_SIZE, CANVAS_SIZE, fit="garment")
MAX_LABELS = 5  # the largest number of garments on a canvas
# Composing a canvas takes less time than training on it. With this many canvases, a network learns in a few epochs,
# without overfitting.
SIZES: Mapping[str, int] = {"train": 100_000, "validation": 2_000, "test": 5_000}
SEED = 0  # The data set has a seed that does not depend on a run's seed, so that all runs train on the same canvases.
VERSION = 1  # part of a run's data digest; increase it with every change to the canvases


class Look(NamedTuple):
    """Garments that are worn together, at most one from each slot. The entry "-" of a slot stands for no garment."""

    name: str
    weight: float  # how often this combination is chosen at random, relative to the others
    slots: tuple[str, ...]  # each slot lists garments, separated by commas, of which one is chosen at random


# The looks form a capsule wardrobe: every top goes with every pair of shoes, and these two determine the other
# garments. A single garment says little about the other garments, but two garments determine a third. A network that
# ignores co-occurrence cannot learn this.
LOOKS = (
    Look("beach", 10, ("T-shirt/top", "Sandal", "Dress", "Bag")),
    Look("sport", 10, ("T-shirt/top", "Sneaker", "Trouser")),
    Look("rain", 10, ("T-shirt/top", "Ankle boot", "Coat")),
    Look("office in summer", 10, ("Shirt", "Sandal", "Trouser")),
    Look("way to work", 10, ("Shirt", "Sneaker", "Coat", "Bag")),
    Look("evening", 10, ("Shirt", "Ankle boot", "Dress")),
    Look("at home", 10, ("Pullover", "Sandal", "Coat")),
    Look("campus", 10, ("Pullover", "Sneaker", "Dress")),
    Look("autumn walk", 10, ("Pullover", "Ankle boot", "Trouser", "Bag")),
    Look("travel", 4, ("T-shirt/top,Shirt", "Pullover", "Trouser", "Sneaker,Ankle boot", "Bag")),
    Look("office in winter", 4, ("Shirt", "Trouser", "Coat", "Ankle boot", "Bag,-")),
    Look("ironed", 3, ("T-shirt/top,Shirt", "Trouser,Dress")),
    Look("shop window", 3, ("Sandal,Sneaker,Ankle boot,Bag,Dress,Coat",)),
)


def together() -> npt.NDArray[np.float64]:
    """Return the probability of every label set in ``outfits``, [1024]. Set s holds label k if bit k of s is 1."""
    probabilities = np.zeros(1 << len(LABELS))
    for look in LOOKS:
        sets = [0]
        for slot in look.slots:
            pieces = slot.split(",")
            sets = [chosen | (1 << LABELS.index(piece) if piece != "-" else 0) for chosen in sets for piece in pieces]
        for chosen in sets:
            probabilities[chosen] += look.weight / len(sets)
    shares: npt.NDArray[np.float64] = probabilities / probabilities.sum()
    return shares


def independent() -> npt.NDArray[np.float64]:
    """Return the probability of every label set in ``outfits-independent``, [1024]. The labels are independent,
    except that every set has 1 to 5 labels. Each label is as frequent as in together()."""
    members = _members()
    frequencies = together() @ members
    allowed = (members.sum(axis=1) >= 1) & (members.sum(axis=1) <= MAX_LABELS)
    odds = frequencies / (1 - frequencies)
    for _ in range(500):
        probabilities = np.where(allowed, np.where(members, odds, 1.0).prod(axis=1), 0.0)
        probabilities /= probabilities.sum()
        odds *= frequencies / (probabilities @ members)
    return probabilities


_SETS = dict(zip(NAMES, (together, independent), strict=True))


def load(name: str, data: Dataset, sizes: Mapping[str, int] = SIZES, limit: int | None = None) -> Dataset:
    """Compose one of the data sets NAMES from ``data``, which is Fashion-MNIST. This takes about half a minute. The
    training and the validation split get at most ``limit`` samples each. The digest does not depend on the limit."""
    composed: dict[str, Any] = {
        split: load_split(name, split, getattr(data, split), size if split == "test" else min(limit or size, size))
        for split, size in sizes.items()
    }
    digest = hashlib.sha256(f"{name} {VERSION} {SEED} {sizes} {data.digest}".encode()).hexdigest()
    return Dataset(name=name, labels=LABELS, image=IMAGE, source=data.source, digest=digest, **composed)


def load_split(name: str, split: str, garments: Split, count: int) -> Split:
    """Compose the first ``count`` samples of a split. ``garments``: Fashion-MNIST's split of the same name."""
    seed, wardrobe = (SEED, list(SIZES).index(split)), Wardrobe(garments)
    members, cumulative = _members(), _SETS[name]().cumsum()
    cumulative /= cumulative[-1]
    canvases = np.empty((count, CANVAS_SIZE, CANVAS_SIZE), np.uint8)
    labels: LabelSets = np.empty((count, len(LABELS)), np.bool_)
    for index in range(count):
        rng = np.random.default_rng((*seed, index))
        labels[index] = members[np.searchsorted(cumulative, rng.random(), side="right")]
        canvases[index] = compose(np.flatnonzero(labels[index]), wardrobe, rng)
    return Split(canvases, labels)


def _members() -> npt.NDArray[np.bool_]:
    """Return which labels are in each label set, [1024, 10]."""
    sets = np.arange(1 << len(LABELS))[:, None]
    return (sets >> np.arange(len(LABELS)) & 1).astype(np.bool_)


class Wardrobe:
    """The garments of a split, by class."""

    def __init__(self, garments: Split) -> None:
        self.all: Images = garments.images
        self.by_class: list[Images] = [garments.images[garments.classes == label] for label in range(len(LABELS))]


def compose(labels: npt.NDArray[np.intp], wardrobe: Wardrobe, rng: np.random.Generator) -> Canvas:
    """Compose a canvas with a garment of every label. Clutter and garments are pasted onto noise in random order."""
    noise = np.frombuffer(rng.bytes(CANVAS_SIZE * CANVAS_SIZE), np.uint8).reshape(CANVAS_SIZE, CANVAS_SIZE)
    canvas: Canvas = np.right_shift(noise, 3) + np.uint8(rng.integers(40))
    scraps = int(rng.integers(SCRAPS + 1))
    for label in rng.permutation(np.concatenate([labels, np.full(scraps, -1)])):
        if label < 0:  # clutter: a square cut out of any garment, without an outline that would identify the class
            garment = wardrobe.all[rng.integers(len(wardrobe.all))]
            top, left = rng.integers(4, 16, 2)
            _paste(garment[top : top + 8, left : left + 8], SCRAP_SIZES, canvas, rng)
        else:
            garments = wardrobe.by_class[label]
            _paste(garments[rng.integers(len(garments))], GARMENT_SIZES, canvas, rng)
    return canvas


def _paste(piece: Canvas, sizes: tuple[int, int], canvas: Canvas, rng: np.random.Generator) -> None:
    size, aspect, contrast, top, left, mirrored = rng.random(6)
    side = sizes[0] * (sizes[1] / sizes[0]) ** size  # log-uniform: halving and doubling are equally likely
    aspect = 0.8 + 0.45 * aspect
    height, width = max(2, round(side * aspect**0.5)), max(2, round(side / aspect**0.5))
    picture = Image.fromarray(piece[:, ::-1] if mirrored < 0.5 else piece).resize((width, height), Image.Resampling.BOX)
    bright = np.asarray(picture).astype(np.float32)
    alpha = np.minimum(bright * (1 / OPAQUE), 1)
    bright *= CONTRAST[0] + contrast * (CONTRAST[1] - CONTRAST[0])
    row, column = int(top * (CANVAS_SIZE - height + 1)), int(left * (CANVAS_SIZE - width + 1))
    below = canvas[row : row + height, column : column + width]
    below[...] = below + alpha * (bright - below)
