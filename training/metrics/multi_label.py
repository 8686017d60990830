"""Figures of multi-label predictions, as in the CNN-RNN paper; torchmetrics counts, and 0 stands for 0 / 0.

Per class (C-): precision and recall of each label, averaged over the labels. Overall (O-): over all decisions together.
C-F1 is the harmonic mean of C-P and C-R, as in the paper, and not the mean of the labels' F1.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional import classification

from hangtag.training.data.multi_label import LabelSets

Scores = npt.NDArray[np.float32]  # [n, labels], in [0, 1]: the higher, the likelier the label


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """All in [0, 1]. mean_ap ranks the images by a label's scores; labels that no image has are left out of it."""

    c_precision: float
    c_recall: float
    c_f1: float
    o_precision: float
    o_recall: float
    o_f1: float
    mean_ap: float
    exact_match: float
    labels_per_image: float  # predicted, on average


def evaluate(predicted: LabelSets, scores: Scores, labels: LabelSets) -> MultiLabelEvaluation:
    """Figures of predicted label sets and of scores, both [n, labels], against the true label sets."""
    count = labels.shape[1]
    answers, truth = torch.from_numpy(predicted).int(), torch.from_numpy(labels).int()
    per_class = {"num_labels": count, "average": "macro"}
    overall = {"num_labels": count, "average": "micro"}
    c_precision = float(classification.multilabel_precision(answers, truth, **per_class))
    c_recall = float(classification.multilabel_recall(answers, truth, **per_class))
    seen = labels.any(axis=0)
    average_precisions = classification.multilabel_average_precision(
        torch.from_numpy(scores[:, seen]), truth[:, torch.from_numpy(seen)], num_labels=int(seen.sum()), average="none"
    )
    return MultiLabelEvaluation(
        c_precision=c_precision,
        c_recall=c_recall,
        c_f1=2 * c_precision * c_recall / (c_precision + c_recall) if c_precision + c_recall else 0.0,
        o_precision=float(classification.multilabel_precision(answers, truth, **overall)),
        o_recall=float(classification.multilabel_recall(answers, truth, **overall)),
        o_f1=float(classification.multilabel_f1_score(answers, truth, **overall)),
        mean_ap=float(average_precisions.mean()),
        exact_match=float(classification.multilabel_exact_match(answers, truth, num_labels=count)),
        labels_per_image=float(predicted.sum(axis=1).mean()),
    )


def decide(scores: Scores, threshold: float) -> LabelSets:
    """The labels that score at least the threshold; where none does, the one that scores highest."""
    sets: LabelSets = (scores >= threshold) | (
        (scores.max(axis=1, keepdims=True) < threshold) & (np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None])
    )
    return sets


def decide_top(scores: Scores, count: int) -> LabelSets:
    """The so many labels that score highest, as the CNN-RNN paper decides for models that do not do so themselves."""
    sets: LabelSets = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(sets, np.argsort(-scores, axis=1, kind="stable")[:, :count], np.True_, axis=1)
    return sets


@dataclass(frozen=True)
class Thresholds:
    """For decide(): the threshold that is best by each of two figures."""

    o_f1: float
    exact_match: float


def choose_thresholds(scores: Scores, labels: LabelSets, candidates: int = 400) -> Thresholds:
    """The best thresholds on these samples, tried at so many quantiles of the scores; of equals, the lowest."""
    tried = np.unique(np.quantile(scores, np.linspace(0, 1, candidates)))
    o_f1, exact_match = [], []
    for threshold in tried:
        sets = decide(scores, threshold)
        o_f1.append(2 * (sets & labels).sum() / (sets.sum() + labels.sum()))
        exact_match.append((sets == labels).all(axis=1).mean())
    return Thresholds(float(tried[np.argmax(o_f1)]), float(tried[np.argmax(exact_match)]))
