"""Measure a single-label model: accuracy, cross-entropy, calibration, and how severe its mistakes are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.evaluation.errors import EvaluationError
from hangtag.evaluation.subject import Outputs
from hangtag.training.data.fashion_mnist import LABELS, Split
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.metrics.calibration import reliability
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
        evaluation: accuracy, cross-entropy and the confusion matrix, by the logits.
        calibration_error: the expected calibration error of the probabilities, 0 to 1.
        classes: precision, recall and F1 of each class.
        severity: the mean distance of the labels that were mixed up, over the mistakes; None without any.
        distance_at: k -> mean distance of the k most probable labels from the true one, over all images.
        nearest: accuracy and severity of the least expected distance rule.
        second: the share of the mistakes whose true label is the second most probable; None without any.
        mistakes: all of them, the most confident first.
    """

    evaluation: Evaluation
    calibration_error: float
    classes: Sequence[ClassFigures]
    severity: float | None
    distance_at: dict[int, float]
    nearest: Nearest
    second: float | None
    mistakes: Sequence[Mistake]


def measure(outputs: Outputs, split: Split, distances: LabelDistances, name: str) -> SingleLabelResult:
    """Measure a model's outputs for a whole split.

    Args:
        outputs: must have ``logits`` [images, 10]. ``probabilities`` [images, 10] are their softmax where they are
            missing; with a temperature in the file they are not.
        split: the images with their true classes.
        distances: of the labels.
        name: the model's name, for error messages.

    Raises:
        EvaluationError: there are no such logits, or an output is not finite.
    """
    logits = _logits(outputs, len(split), name)
    evaluation = evaluate(logits, split.classes)
    probabilities = _probabilities(outputs, logits, name)
    return SingleLabelResult(
        evaluation=evaluation,
        calibration_error=reliability(probabilities, split.classes).error,
        classes=per_class(evaluation.confusion),
        severity=mean_severity(evaluation.confusion, distances.matrix),
        distance_at={k: distance_at_k(logits, split.classes, distances.matrix, k) for k in TOP},
        nearest=_nearest(logits, split, distances),
        second=_second(logits, split),
        mistakes=_mistakes(logits, probabilities, split, distances),
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
    _require_finite(logits, name)
    return logits.astype(np.float32)


def _require_finite(values: npt.NDArray[np.floating], name: str) -> None:
    broken = np.flatnonzero(~np.isfinite(values.astype(np.float64)).all(axis=1))
    if broken.size:
        raise EvaluationError(
            f"{name} gives outputs that are not finite for {broken.size} of {len(values)} images, first for image "
            f"{broken[0]}: its training, or its conversion to another precision, went wrong."
        )


def _probabilities(outputs: Outputs, logits: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.floating]:
    """What the model answers; the softmax of the logits where it answers none, or something else by that name."""
    answered = outputs.get("probabilities")
    if answered is None or answered.shape != logits.shape or not np.issubdtype(answered.dtype, np.floating):
        return np.exp(log_probabilities(logits))
    _require_finite(answered, name)
    return answered


def _mistakes(
    logits: npt.NDArray[np.float32], probabilities: npt.NDArray[np.floating], split: Split, distances: LabelDistances
) -> list[Mistake]:
    predicted = logits.argmax(axis=1)
    confidence = probabilities[np.arange(len(predicted)), predicted]
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
