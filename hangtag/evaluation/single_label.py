"""Measure a single-label model: accuracy, cross-entropy, and how severe its mistakes are."""

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
"""The k of distance@k: the mean distance of the k most probable labels from the true one."""


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: the image's index in the split, both labels' indices, and the predicted one's probability."""

    image: int
    true: int
    predicted: int
    probability: float
    distance: float


@dataclass(frozen=True)
class Nearest:
    """The result if the least expected distance decided (``nearest_expected``) instead of the highest probability."""

    accuracy: float
    severity: float | None


@dataclass(frozen=True)
class SingleLabelResult:
    """A single-label model's figures.

    Attributes:
        evaluation: accuracy, cross-entropy and the confusion matrix.
        classes: precision, recall and F1 of each class.
        severity: the mean distance of the labels that were mixed up, over the mistakes; None without any.
        distance_at: k -> mean distance of the k most probable labels from the true one, over all images.
        nearest: accuracy and severity of the least expected distance rule.
        second: the share of the mistakes whose true label is the second most probable; None without any.
        mistakes: all of them, the most confident first.
    """

    evaluation: Evaluation
    classes: Sequence[ClassFigures]
    severity: float | None
    distance_at: dict[int, float]
    nearest: Nearest
    second: float | None
    mistakes: Sequence[Mistake]


def measure(outputs: Outputs, split: Split, distances: LabelDistances, name: str) -> SingleLabelResult:
    """Measure a model's outputs for a whole split.

    Args:
        outputs: must have ``logits`` [images, 10].
        split: the images with their true classes.
        distances: of the labels.
        name: the model's name, for error messages.

    Raises:
        EvaluationError: there are no such logits, or they are not finite.
    """
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
            f"{name} has no output `logits` (only {', '.join(outputs) or 'none'}), which accuracy and loss need."
        )
    logits = outputs["logits"]
    if logits.shape != (count, len(LABELS)):
        raise EvaluationError(
            f"{name} gives logits of the shape {list(logits.shape)} for {count} images; "
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
