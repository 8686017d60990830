"""One label an image: how often the model is right, how sure it is, and how bad its mistakes are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.evaluation.errors import EvaluationError
from hangtag.evaluation.subject import Outputs
from hangtag.training.data.fashion_mnist import LABELS, Split
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.metrics.severity import distance_at_k, least_expected_distance, mean_severity
from hangtag.training.metrics.single_label import (
    ClassFigures,
    Evaluation,
    confusion_matrix,
    evaluate,
    log_probabilities,
    per_class,
)

TOP = (1, 3)
"""Lengths of the short lists whose distance from the truth is told."""


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the image's place in the split, both labels' indices, the probability given to the wrong one."""

    image: int
    true: int
    predicted: int
    probability: float
    distance: float


@dataclass(frozen=True)
class Nearest:
    """If the least expected distance decided (metrics/severity.py), instead of the likeliest label."""

    accuracy: float
    severity: float | None


@dataclass(frozen=True)
class SingleLabelResult:
    """severity: the mean distance of mistakes, None without any; distance_at[k]: of the k likeliest, over all images.

    mistakes: the most confident first, all of them. second: the share of them whose true label is the second likeliest.
    """

    evaluation: Evaluation
    classes: Sequence[ClassFigures]
    severity: float | None
    distance_at: dict[int, float]
    nearest: Nearest
    second: float | None
    mistakes: Sequence[Mistake]


def measure(outputs: Outputs, split: Split, distances: LabelDistances, name: str) -> SingleLabelResult:
    """Judge a model's outputs for a whole split. Raises EvaluationError when they are not what a classifier gives."""
    logits = _logits(outputs, len(split), name)
    evaluation = evaluate(logits, split.classes)
    return SingleLabelResult(
        evaluation=evaluation,
        classes=per_class(evaluation.confusion),
        severity=mean_severity(evaluation.confusion, distances.matrix),
        distance_at={k: distance_at_k(logits, split.classes, distances.matrix, k) for k in TOP},
        nearest=_nearest(logits, split, distances),
        second=_second(logits, split),
        mistakes=_mistakes(logits, split, distances),
    )


def _nearest(logits: npt.NDArray[np.float32], split: Split, distances: LabelDistances) -> Nearest:
    predicted = least_expected_distance(logits, distances.matrix)
    confusion = confusion_matrix(split.classes, predicted, len(LABELS))
    return Nearest(float((predicted == split.classes).mean()), mean_severity(confusion, distances.matrix))


def _second(logits: npt.NDArray[np.float32], split: Split) -> float | None:
    order = np.argsort(-logits, axis=1, kind="stable")
    wrong = order[:, 0] != split.classes
    return float((order[wrong, 1] == split.classes[wrong]).mean()) if wrong.any() else None


def _logits(outputs: Outputs, count: int, name: str) -> npt.NDArray[np.float32]:
    if "logits" not in outputs:
        raise EvaluationError(
            f"{name} has no output `logits` (only {', '.join(outputs) or 'none'}), which accuracy and loss are told by."
        )
    logits = outputs["logits"]
    if logits.shape != (count, len(LABELS)):
        raise EvaluationError(
            f"{name} answers {count} images with logits of the shape {list(logits.shape)}; "
            f"the data set's {len(LABELS)} classes need {[count, len(LABELS)]}."
        )
    broken = np.flatnonzero(~np.isfinite(logits.astype(np.float64)).all(axis=1))
    if broken.size:
        raise EvaluationError(
            f"{name} gives outputs that are not finite for {broken.size} of {count} images, first for image "
            f"{broken[0]}: its training, or its conversion to another precision, went wrong."
        )
    return logits.astype(np.float32)


def _mistakes(logits: npt.NDArray[np.float32], split: Split, distances: LabelDistances) -> list[Mistake]:
    confidence = np.exp(log_probabilities(logits).max(axis=1))
    predicted = logits.argmax(axis=1)
    wrong = np.flatnonzero(predicted != split.classes)
    return [
        Mistake(
            image=int(image),
            true=int(split.classes[image]),
            predicted=int(predicted[image]),
            probability=float(confidence[image]),
            distance=float(distances.matrix[split.classes[image], predicted[image]]),
        )
        for image in wrong[np.argsort(-confidence[wrong], kind="stable")]
    ]
