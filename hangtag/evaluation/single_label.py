"""Measure a single-label model: accuracy, cross-entropy, calibration, and how severe its mistakes are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.evaluation.subject import EvaluationError, Outputs
from hangtag.training.data import fashion_mnist
from hangtag.training.data.dataset import Split
from hangtag.training.metrics.calibration import calibration_error
from hangtag.training.metrics.class_metrics import ClassFigures, evaluate, log_probabilities, per_class


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: the image's index in the split, both labels, and the predicted label's probability.

    ``distance`` is the distance between the two labels: 0 for equal labels, 1 for the farthest pair of labels, and None
        if the labels have no distances.
    """

    image: int
    true: str
    predicted: str
    probability: float
    distance: float | None


@dataclass(frozen=True)
class SingleLabelResult:
    """A single-label model's figures.

    Attributes:
        accuracy: the share of the images that are classified correctly.
        loss: the mean cross-entropy in nats, computed from the logits.
        calibration_error: the expected calibration error of the probabilities, from 0 to 1, computed with 15 bins.
        severity: the mean distance between the true and the predicted label of a mistake; None if there are no
            mistakes, or the labels have no distances.
        second: the share of the mistakes whose true label is the second most probable; None if there are no mistakes.
        labels: the names of the classes.
        classes: precision, recall and F1 of each class.
        confusion: [true][predicted] is the number of images with these two labels.
        mistakes: all mistakes; the most confident mistake comes first.
    """

    accuracy: float
    loss: float
    calibration_error: float
    severity: float | None
    second: float | None
    labels: tuple[str, ...]
    classes: Sequence[ClassFigures]
    confusion: list[list[int]]
    mistakes: Sequence[Mistake]


def measure(outputs: Outputs, split: Split, labels: tuple[str, ...], name: str) -> SingleLabelResult:
    """Measure a model's outputs for a whole split.

    Args:
        outputs: must have ``logits`` [images, labels] or ``probabilities``. If ``probabilities`` are missing, the
            softmax of the logits replaces them. If a model's file applies a temperature, its probabilities differ from
            the softmax of its logits.
        split: the images with their true classes.
        labels: the names of the classes.
        name: the model's name, for error messages.

    Raises:
        EvaluationError: there are neither logits nor probabilities, or an output has a wrong shape or is not finite.
    """
    logits = _logits(outputs, len(split), len(labels), name)
    evaluation = evaluate(logits, split.classes)
    probabilities = _probabilities(outputs, logits, name)
    mistakes = _mistakes(logits, probabilities, split, labels)
    severities = [mistake.distance for mistake in mistakes if mistake.distance is not None]
    return SingleLabelResult(
        accuracy=evaluation.accuracy,
        loss=evaluation.loss,
        calibration_error=calibration_error(probabilities, split.classes),
        severity=float(np.mean(severities)) if severities else None,
        second=_second(logits, split),
        labels=labels,
        classes=per_class(evaluation.confusion),
        confusion=evaluation.confusion,
        mistakes=mistakes,
    )


def _second(logits: npt.NDArray[np.float32], split: Split) -> float | None:
    order = np.argsort(-logits, axis=1, kind="stable")
    wrong = order[:, 0] != split.classes
    return float((order[wrong, 1] == split.classes[wrong]).mean()) if wrong.any() else None


def _logits(outputs: Outputs, count: int, labels: int, name: str) -> npt.NDArray[np.float32]:
    """Return the logits, or the logarithms of the probabilities if a model has no logits.

    The softmax of these logarithms is equal to the probabilities.
    """
    key = next((key for key in ("logits", "probabilities") if key in outputs), None)
    if key is None:
        raise EvaluationError(
            f"{name} has no output `logits` or `probabilities`, which accuracy and loss need. Its outputs are: "
            f"{', '.join(outputs) or '(none)'}."
        )
    scores = outputs[key]
    if scores.shape != (count, labels):
        raise EvaluationError(
            f"{name} returned {key} of the shape {list(scores.shape)} for {count} images, but the data set's {labels} "
            f"classes need the shape {[count, labels]}."
        )
    _require_finite(scores, name)
    if key == "probabilities":
        scores = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
    return scores.astype(np.float32)


def _require_finite(values: npt.NDArray[np.floating], name: str) -> None:
    broken = np.flatnonzero(~np.isfinite(values.astype(np.float64)).all(axis=1))
    if broken.size:
        raise EvaluationError(
            f"{name} returned outputs that are not finite for {broken.size} of {len(values)} images, first for image "
            f"{broken[0]}. The model's training, or its conversion to another precision, failed."
        )


def _probabilities(outputs: Outputs, logits: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.floating]:
    """Return the model's probabilities, or the softmax of the logits if the model has no output of that kind."""
    answered = outputs.get("probabilities")
    if answered is None or answered.shape != logits.shape or not np.issubdtype(answered.dtype, np.floating):
        return np.exp(log_probabilities(logits))
    _require_finite(answered, name)
    return answered


def _mistakes(
    logits: npt.NDArray[np.float32],
    probabilities: npt.NDArray[np.floating],
    split: Split,
    labels: tuple[str, ...],
) -> list[Mistake]:
    garments = fashion_mnist.label_distances(labels)
    predicted = logits.argmax(axis=1)
    confidence = probabilities[np.arange(len(predicted)), predicted]
    wrong = np.flatnonzero(predicted != split.classes)
    return [
        Mistake(
            image=int(image),
            true=labels[split.classes[image]],
            predicted=labels[predicted[image]],
            probability=float(confidence[image]),
            distance=None if garments is None else garments["distances"][split.classes[image]][predicted[image]],
        )
        for image in wrong[np.argsort(-confidence[wrong], kind="stable")]
    ]
