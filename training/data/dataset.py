"""A data set in memory: three splits of images of one shape. An image has one label or a set of labels."""

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
    """Images with their classes. The samples are in a random order, unless ``by_name`` is true. Then, as with the
    user's own pictures, the samples are sorted by name, which is often the order of the classes."""

    images: Images
    classes: Classes | LabelSets
    by_name: bool = False

    def __len__(self) -> int:
        return len(self.classes)

    def first(self, n: int | None) -> "Split":
        """Return at most n samples: the first n, or n evenly spaced ones if the samples are sorted by name. For None,
        return all samples."""
        if n is None or n >= len(self):
            return self
        chosen = np.arange(n) * len(self) // n if self.by_name else slice(n)
        return replace(self, images=self.images[chosen], classes=self.classes[chosen])


PIXELS_DIGITS = 16
"""Pictures' digests are cut to this many digits. The probability that two of a million different pictures have the same
digest is below 1 in 10 million."""


class Member(NamedTuple):
    """A run's record of one of the user's own pictures."""

    split: str
    label: str
    pixels: str  # the first digits of the SHA-256 of the picture after conversion to the network's size and channels
    path: str  # relative to the source


def pixels_digest(image: Images) -> str:
    """Return the value of ``Member.pixels`` for one image."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:PIXELS_DIGITS]


@dataclass(frozen=True)
class Dataset:
    """A data set: images with their labels in three splits."""

    name: str  # the value of --data, such as fashion-mnist or folder:photos
    labels: tuple[str, ...]  # the names of the classes, in the order of their indices
    image: ImageSpec  # describes how a picture is converted to an image of the data set
    train: Split  # the split that networks learn from
    validation: Split  # the split on which the best epoch is selected
    test: Split  # the split on which the result is measured; no choice depends on it
    source: str  # the folder or file that the data set was read from
    digest: str  # data sets of different content have different digests
    notes: tuple[str, ...] = ()  # sentences for the user, for example about pictures that were left out
    members: Sequence[Member] = ()  # the records of the user's own pictures, in the order of the splits
    files: str = ""  # the sizes of the user's own picture files, in words

    @property
    def sizes(self) -> dict[str, int]:
        """The number of samples of each split."""
        return {split: len(getattr(self, split)) for split in ("train", "validation", "test")}

    @property
    def has_label_sets(self) -> bool:
        """Whether every image has a set of labels instead of a single label."""
        return self.train.classes.ndim == 2
