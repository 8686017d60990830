"""What every multi-label data set is in memory: grey canvases of one size, with a set of labels each."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CANVAS_SIZE = 64
"""Height and width of a canvas, in pixels."""
MAX_LABELS = 5
"""How many labels CNN-RNN predicts for a canvas at most, and how many ``outfits`` puts on one."""

Canvases = npt.NDArray[np.uint8]  # [n, 64, 64], grey
LabelSets = npt.NDArray[np.bool_]  # [n, labels]: which labels a canvas has


@dataclass(frozen=True)
class MultiLabelSplit:
    """Canvases [n, 64, 64] and the label set of each, [n, labels]."""

    images: Canvases
    labels: LabelSets

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int | None) -> "MultiLabelSplit":
        """The first n samples; all of them for None."""
        return self if n is None else MultiLabelSplit(self.images[:n], self.labels[:n])


@dataclass(frozen=True)
class MultiLabelData:
    """A multi-label data set with its three splits. Data sets of different content have different digests."""

    name: str
    labels: tuple[str, ...]
    train: MultiLabelSplit
    validation: MultiLabelSplit
    test: MultiLabelSplit
    source: str
    digest: str
