"""Measures a single-label model: accuracy, cross-entropy, calibration, and how severe its mistakes are."""

import numpy as np
import numpy.typing as npt

from hangtag.evaluation.result import Mistake, Result
from hangtag.evaluation.subject import EvaluationError, Outputs
from hangtag.training.data import fashion_mnist
from hangtag.training.data.dataset import Split
from hangtag.training.metrics.calibration import calibration_error
from hangtag.training.metrics.class_metrics import evaluate, log_probabilities, per_class


def measure(outputs: Outputs, split: Split, labels: tuple[str, ...], name: str) -> Result:
    """Measure a model's outputs for a whole split.

    The metrics are the accuracy; the loss, which is the mean cross-entropy in nats, computed from the logits; the
    expected calibration error of the probabilities, computed with 15 bins; the severity, which is the mean distance
    between the true and the predicted label of a mistake; and "second", the share of the mistakes whose true label is
    the second most probable. If there are no mistakes, the severity and "second" are None. If the labels have no
    distances, the severity is None.

    Args:
        outputs: must have ``logits`` [images, labels] or ``probabilities``. If ``probabilities`` are missing, the
            softmax of the logits replaces them. If a model's file applies a temperature, its probabilities differ from
            the softmax of its logits.

    Raises:
        EvaluationError: there are neither logits nor probabilities, or an output has a wrong shape or is not finite.
    """
    logits = _logits(outputs, (len(split), len(labels)), name)
    probabilities = outputs.get("probabilities")
    if probabilities is None or probabilities.shape != logits.shape or probabilities.dtype.kind != "f":
        probabilities = np.exp(log_probabilities(logits))
    _require_finite(probabilities, name)
    order = np.argsort(-logits, axis=1, kind="stable")
    predicted, confidence = order[:, 0], np.take_along_axis(probabilities, order, axis=1)[:, 0]
    wrong = np.flatnonzero(predicted != split.classes)
    garments = fashion_mnist.label_distances(labels)
    mistakes = [
        Mistake(
            image=int(image),
            true=labels[split.classes[image]],
            predicted=labels[predicted[image]],
            probability=float(confidence[image]),
            distance=garments["distances"][split.classes[image]][predicted[image]] if garments else None,
        )
        for image in wrong[np.argsort(-confidence[wrong], kind="stable")]
    ]
    severities = [mistake.distance for mistake in mistakes if mistake.distance is not None]
    evaluation = evaluate(logits, split.classes)
    figures = {
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "calibration_error": calibration_error(probabilities, split.classes),
        "severity": float(np.mean(severities)) if severities else None,
        "second": float((order[wrong, 1] == split.classes[wrong]).mean()) if wrong.size else None,
    }
    return Result(figures, labels, per_class(evaluation.confusion), mistakes, evaluation.confusion)


def _logits(outputs: Outputs, shape: tuple[int, int], name: str) -> npt.NDArray[np.float32]:
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
    if scores.shape != shape:
        raise EvaluationError(
            f"{name} returned {key} of the shape {list(scores.shape)} for {shape[0]} images, but the data set's "
            f"{shape[1]} classes need the shape {list(shape)}."
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
