"""A data set in memory: pictures of one shape, with a label or a set of labels each, in three splits."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hangtag.serving.image_spec import ImageSpec

Images = npt.NDArray[np.uint8]  # [n, height, width], or [n, height, width, 3]
Classes = npt.NDArray[Any]  # [n], whole numbers: indices into the data set's labels
LabelSets = npt.NDArray[np.bool_]  # [n, labels]: which labels an image has


@dataclass(frozen=True)
class Split:
    """Images [n, height, width] or [n, height, width, 3], uint8, and their Classes [n] or LabelSets [n, labels].

    The samples are in a random order; the user's own pictures by name, which often is the order of their classes.
    """

    images: Images
    classes: Classes | LabelSets
    by_name: bool = False

    def __len__(self) -> int:
        return len(self.classes)

    def first(self, n: int | None) -> "Split":
        """At most n samples: the first n, or n evenly spaced ones if the samples are sorted by name. None: all
        samples."""
        if n is None or n >= len(self):
            return self
        chosen = np.arange(n) * len(self) // n if self.by_name else slice(n)
        return replace(self, images=self.images[chosen], classes=self.classes[chosen])


PIXELS_DIGITS = 16
"""The digits of a picture's digest: the chance that two of a million pictures share them is below 1 to 10 million."""


class Member(NamedTuple):
    """One of the user's own pictures, as a run records it."""

    split: str
    label: str
    pixels: str
    """The first digits of the SHA-256 of what a network sees of the picture."""
    path: str
    """The path relative to the source."""


def pixels_digest(image: Images) -> str:
    """The value of ``Member.pixels`` for one image."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:PIXELS_DIGITS]


@dataclass(frozen=True)
class Dataset:
    """Pictures with their labels.

    Attributes:
        name: As ``--data`` names it, such as fashion-mnist or folder:photos.
        labels: The names of the classes, in their order.
        image: How a picture becomes an image of the splits.
        train: What networks learn from.
        validation: The split that selects the best epoch.
        test: The split that selects nothing.
        source: Where the data set was read, in words.
        digest: Data sets of different content have different digests.
        notes: Sentences about what was left out.
        members: The members of the user's own pictures, in the order of the splits.
        files: How large the files of own pictures are, in words.
    """

    name: str
    labels: tuple[str, ...]
    image: ImageSpec
    train: Split
    validation: Split
    test: Split
    source: str
    digest: str
    notes: tuple[str, ...] = ()
    members: Sequence[Member] = ()
    files: str = ""

    @property
    def sizes(self) -> dict[str, int]:
        """How many samples each split has."""
        return {split: len(getattr(self, split)) for split in ("train", "validation", "test")}

    @property
    def has_label_sets(self) -> bool:
        """Whether an image has a set of labels instead of a single label."""
        return self.train.classes.ndim == 2
