"""A data set in memory: pictures of one shape with a label each, in three splits."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.serving.image_spec import ImageSpec

Images = npt.NDArray[np.uint8]  # [n, height, width], or [n, height, width, 3]
Classes = npt.NDArray[np.int64]  # [n], indices into the data set's labels


@dataclass(frozen=True)
class Split:
    """Images [n, height, width] or [n, height, width, 3], uint8, and their classes [n]."""

    images: Images
    classes: Classes

    def __len__(self) -> int:
        return len(self.classes)

    def first(self, n: int | None) -> "Split":
        """The first n samples; all of them for None."""
        return self if n is None else Split(self.images[:n], self.classes[:n])


@dataclass(frozen=True)
class Dataset:
    """Pictures that each have one of several labels.

    Attributes:
        name: As ``--data`` names it, such as fashion-mnist or folder:photos.
        labels: The names of the classes, in their order.
        image: How a picture becomes an image of the splits.
        train: What networks learn from.
        validation: By which the best epoch is selected.
        test: What nothing is selected by.
        source: Where it was read, in words.
        digest: Data sets of different content have different digests.
    """

    name: str
    labels: tuple[str, ...]
    image: ImageSpec
    train: Split
    validation: Split
    test: Split
    source: str
    digest: str
