"""Metrics of multi-label predictions, as in the CNN-RNN paper. 0 / 0 counts as 0.

C-P is the mean of the labels' precisions, and C-R is the mean of their recalls. O-P, O-R and O-F1 pool the decisions
about all labels. C-F1 is the harmonic mean of C-P and C-R, as in the paper, and not the mean of the labels' F1.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.training.data.dataset import LabelSets

Scores = npt.NDArray[np.float32]  # [n, labels], in [0, 1]: the higher, the more probable the label


def evaluate(predicted: LabelSets, scores: Scores, labels: LabelSets) -> dict[str, float]:
    """Compute the metrics of predicted label sets and scores against the true label sets. All are [n, labels].

    All metrics except for labels_per_image, the average number of predicted labels, are in [0, 1]. mean_ap is the mean
    of the average precisions of all labels that occur.
    """
    hits, chosen, true = (sets.sum(axis=0) for sets in (predicted & labels, predicted, labels))  # each [labels]
    c_precision, c_recall = float(_ratio(hits, chosen).mean()), float(_ratio(hits, true).mean())
    return {
        "c_precision": c_precision,
        "c_recall": c_recall,
        "c_f1": 2 * c_precision * c_recall / (c_precision + c_recall) if c_precision + c_recall else 0.0,
        "o_precision": float(_ratio(hits.sum(), chosen.sum())),
        "o_recall": float(_ratio(hits.sum(), true.sum())),
        "o_f1": float(_ratio(2 * hits.sum(), chosen.sum() + true.sum())),
        "mean_ap": float(np.mean([_average_precision(scores[:, at], labels[:, at]) for at in np.flatnonzero(true)])),
        "exact_match": float((predicted == labels).all(axis=1).mean()),
        "labels_per_image": float(predicted.sum(axis=1).mean()),
    }


def _ratio(part: Any, whole: Any) -> Any:
    """Return part / whole in FP32, as in earlier releases, so that a resumed run selects the same epoch."""
    return np.divide(part, np.maximum(whole, 1), dtype=np.float32)


def _average_precision(scores: Scores, true: LabelSets) -> float:
    """Return a label's average precision. Images with equal scores share a place in the ranking."""
    order = np.argsort(-scores)
    ranks = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = true[order].cumsum()[ranks]
    return float((np.diff(hits, prepend=0) * hits / (ranks + 1)).sum() / hits[-1])


def decide(scores: Scores, threshold: float) -> LabelSets:
    """Return the labels that score at least the threshold or, if no label does, the label with the highest score."""
    sets: LabelSets = (scores >= threshold) | (
        (scores.max(axis=1, keepdims=True) < threshold) & (np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None])
    )
    return sets


def choose_threshold(scores: Scores, labels: LabelSets, candidates: int = 400) -> float:
    """Try ``candidates`` quantiles of the scores as thresholds, and return the one with the highest O-F1 on these
    samples. Of equally good thresholds, return the lowest."""
    thresholds = np.unique(np.quantile(scores, np.linspace(0, 1, candidates)))
    every = (decide(scores, threshold) for threshold in thresholds)
    return float(thresholds[np.argmax([2 * (sets & labels).sum() / (sets.sum() + labels.sum()) for sets in every])])
