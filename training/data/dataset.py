"""A data set in memory: pictures of one shape, with a label or a set of labels each, in three splits."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.image_spec import ImageSpec

Images = npt.NDArray[np.uint8]  # [n, height, width], or [n, height, width, 3]
Classes = npt.NDArray[Any]  # [n], whole numbers: indices into the data set's labels
LabelSets = npt.NDArray[np.bool_]  # [n, labels]: which labels an image has


@dataclass(frozen=True)
class Split:
    """Images [n, height, width] or [n, height, width, 3], uint8, and their Classes [n] or LabelSets [n, labels]."""

    images: Images
    classes: Classes | LabelSets

    def __len__(self) -> int:
        return len(self.classes)

    def first(self, n: int | None) -> "Split":
        """The first n samples; all of them for None."""
        return self if n is None else Split(self.images[:n], self.classes[:n])


@dataclass(frozen=True)
class Dataset:
    """Pictures with their labels.

    Attributes:
        name: As ``--data`` names it, such as fashion-mnist or folder:photos.
        labels: The names of the classes, in their order.
        image: How a picture becomes an image of the splits.
        train: What networks learn from.
        validation: By which the best epoch is selected.
        test: What nothing is selected by.
        source: Where it was read, in words.
        digest: Data sets of different content have different digests.
        notes: Sentences about what was left out.
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

    @property
    def sizes(self) -> dict[str, int]:
        """How many samples each split has."""
        return {split: len(getattr(self, split)) for split in ("train", "validation", "test")}

    @property
    def has_label_sets(self) -> bool:
        """Whether an image has a set of labels, and not a single one."""
        return self.train.classes.ndim == 2
