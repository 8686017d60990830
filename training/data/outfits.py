"""The data set ``outfits``: what is worn together, scattered over a canvas, from real Fashion-MNIST images.

Two sets of the same pictures' kind. In ``outfits`` a canvas shows one look of the table below, so that one garment says
much about the others. In ``outfits-independent``, the control, every label is as common as there, and a canvas holds
about as many, but each is drawn without regard to the others.

Sample i of a split is the same whatever was asked for before it. The training split's garments come from
Fashion-MNIST's training split, and so on.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hangtag.training.data.fashion_mnist import LABELS, FashionMnist, Split
from hangtag.training.data.multi_label import CANVAS_SIZE, MAX_LABELS, LabelSets, MultiLabelData, MultiLabelSplit
from hangtag.training.data.outfits_canvas import Wardrobe, compose

NAMES = ("outfits", "outfits-independent")
# Canvases are cheaper to compose than to learn from: with so many, few epochs do, and nothing is learned by heart.
SIZES: Mapping[str, int] = {"train": 100_000, "validation": 2_000, "test": 5_000}
SEED = 0  # of the data, not of a run: all runs learn from, and are measured on, the same canvases
VERSION = 1  # raise it with every change of what is composed: a run's data digest tells the change


class Look(NamedTuple):
    """What is worn together: one piece of every slot. "-" in a slot stands for going without."""

    name: str
    weight: float  # how often, relative to the other looks
    slots: tuple[str, ...]  # pieces to choose from, equally likely, separated by commas


# A capsule wardrobe: every top goes with every pair of shoes, and what else is worn follows from the two. So one piece
# by itself hardly tells another, and two tell the third: labels that cannot be had by looking for each by itself.
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
    """The probability of every label set in ``outfits``, [1024]; set number s holds label k if bit k of s is 1."""
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
    """The probability of every label set in the control set: each label by itself, given that one to five came up.

    The condition changes how common a label is, so the odds are fitted until every label is as common as in together().
    """
    members = _members()
    wanted = together() @ members
    allowed = (members.sum(axis=1) >= 1) & (members.sum(axis=1) <= MAX_LABELS)
    odds = wanted / (1 - wanted)
    for _ in range(500):
        probabilities = np.where(allowed, np.where(members, odds, 1.0).prod(axis=1), 0.0)
        probabilities /= probabilities.sum()
        odds *= wanted / (probabilities @ members)
    return probabilities


_SETS = dict(zip(NAMES, (together, independent), strict=True))


def load(
    name: str, data: FashionMnist, seed: int = SEED, sizes: Mapping[str, int] = SIZES, limit: int | None = None
) -> MultiLabelData:
    """Compose a data set by name; about half a minute for a whole one. Raises KeyError for an unknown name.

    limit: of the training and validation splits compose the first so many canvases only. The digest is the whole data
    set's nevertheless, of which they are a part.
    """
    probabilities = _SETS[name]()
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    composed = {}
    for number, (split, garments) in enumerate(splits.items()):
        count = sizes[split] if split == "test" or limit is None else min(limit, sizes[split])
        composed[split] = make_split(probabilities, garments, (seed, number), count)
    digest = hashlib.sha256(f"{name} {VERSION} {seed} {sizes} {data.digest}".encode()).hexdigest()
    return MultiLabelData(name=name, labels=LABELS, source=data.source, digest=digest, **composed)


def load_split(name: str, split: str, garments: Split, count: int) -> MultiLabelSplit:
    """The first ``count`` samples of one split of a data set by name, from the garments of Fashion-MNIST's split."""
    return make_split(_SETS[name](), garments, (SEED, list(SIZES).index(split)), count)


def make_split(
    probabilities: npt.NDArray[np.float64], garments: Split, seed: tuple[int, int], count: int
) -> MultiLabelSplit:
    """The first ``count`` samples: label sets by their probability [1024], canvases from the garments."""
    wardrobe = Wardrobe(garments)
    members, cumulative = _members(), probabilities.cumsum()
    cumulative /= cumulative[-1]
    canvases = np.empty((count, CANVAS_SIZE, CANVAS_SIZE), np.uint8)
    labels: LabelSets = np.empty((count, len(LABELS)), np.bool_)
    for index in range(count):
        rng = np.random.default_rng((*seed, index))
        labels[index] = members[np.searchsorted(cumulative, rng.random(), side="right")]
        canvases[index] = compose(np.flatnonzero(labels[index]), wardrobe, rng)
    return MultiLabelSplit(canvases, labels)


def _members() -> npt.NDArray[np.bool_]:
    """Which labels [10] are in each of the 1,024 label sets."""
    sets = np.arange(1 << len(LABELS))[:, None]
    return (sets >> np.arange(len(LABELS)) & 1).astype(np.bool_)
