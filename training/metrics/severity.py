"""Metrics of how bad a classifier's mistakes are, by the distances between labels [classes, classes]."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hangtag.training.data.dataset import Classes
from hangtag.training.metrics.single_label import log_probabilities

Distances = npt.NDArray[np.float64]


def mean_severity(confusion: Sequence[Sequence[int]], distances: Distances) -> float | None:
    """The mean distance from the true to the predicted class over the mistakes; None if there are none.

    Bertinetto et al., Making Better Mistakes, CVPR 2020, call it the average mistake severity.

    Args:
        confusion: Counts of samples, [true][predicted].
        distances: [classes, classes].
    """
    counts = np.asarray(confusion, np.int64)
    mistakes = counts.sum() - counts.trace()
    off_diagonal = np.where(np.eye(len(counts), dtype=bool), 0.0, distances)
    return float((counts * off_diagonal).sum() / mistakes) if mistakes else None


def distance_at_k(logits: npt.NDArray[np.float32], classes: Classes, distances: Distances, k: int) -> float:
    """The mean distance from the true class to the k most probable ones, over all samples.

    Bertinetto et al., as above, call it the average hierarchical distance of top-k.

    Args:
        logits: [n, classes].
        classes: The true classes, [n].
        distances: [classes, classes].
        k: The number of most probable classes.
    """
    top_k = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float(distances[classes.astype(np.int64)[:, None], top_k].mean())


def least_expected_distance(logits: npt.NDArray[np.float32], distances: Distances) -> npt.NDArray[np.int64]:
    """For each sample [n] the class with the least expected distance to the truth, by the model's probabilities.

    Karthik et al. (No Cost Likelihood Manipulation at Test Time for Making Better Mistakes in Deep Networks, ICLR 2021)
    compare losses with this decision rule, which needs no training. logits: [n, classes].
    """
    decisions: npt.NDArray[np.int64] = (np.exp(log_probabilities(logits)) @ distances).argmin(axis=1)
    return decisions
