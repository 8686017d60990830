"""Images with several labels each, in memory: what every multi-label data set is, wherever it comes from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Canvases = npt.NDArray[np.uint8]  # [n, 64, 64], grey
LabelSets = npt.NDArray[np.bool_]  # [n, labels]: which labels a canvas has


@dataclass(frozen=True)
class MultiLabelSplit:
    """Canvases [n, 64, 64] and the label sets of each [n, labels]."""

    images: Canvases
    labels: LabelSets

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int | None) -> "MultiLabelSplit":
        """The first n samples; all of them for None."""
        return self if n is None else MultiLabelSplit(self.images[:n], self.labels[:n])


@dataclass(frozen=True)
class MultiLabelData:
    """A data set with its splits. The digest tells one content from another."""

    name: str
    labels: tuple[str, ...]
    train: MultiLabelSplit
    validation: MultiLabelSplit
    test: MultiLabelSplit
    source: str
    digest: str
