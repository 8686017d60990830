"""Measures a model's outputs for a split: metrics of the model, metrics of each label, and the mistakes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.evaluation.subject import Array, EvaluationError, Outputs, Subject
from hangtag.training.data import fashion_mnist
from hangtag.training.data.dataset import Split
from hangtag.training.metrics import set_metrics
from hangtag.training.metrics.calibration import calibration_error
from hangtag.training.metrics.class_metrics import ClassFigures, evaluate, log_probabilities, per_class

Sets = npt.NDArray[np.bool_]  # [n, labels]: which labels are in the set of an image


@dataclass(frozen=True)
class Mistake:
    image: int  # the image's index in the split
    true: str | tuple[str, ...]  # a label or a set of labels
    predicted: str | tuple[str, ...]
    probability: float | None  # the probability of the prediction, if known
    distance: float | None = None  # from 0 for equal labels to 1 for the farthest pair; None without known distances


@dataclass(frozen=True)
class Result:
    """The metrics of a model on a split."""

    figures: Mapping[str, float | None]  # the metrics of the model by name, as in `report`
    labels: tuple[str, ...]
    classes: Sequence[ClassFigures]  # precision, recall and F1 of each label
    mistakes: Sequence[Mistake]  # all mistakes, the most confident first
    confusion: list[list[int]] | None = None  # [true][predicted], the number of images; None for a multi-label model


def measure(subject: Subject, outputs: Outputs, split: Split, labels: tuple[str, ...]) -> Result:
    """Measure a model's outputs for a whole split.

    The outputs of a single-label model must have ``logits`` [images, labels] or ``probabilities``. The loss is the mean
    cross-entropy of the logits in nats. The expected calibration error of the probabilities is computed with 15 bins.
    "second" is the share of the mistakes in which the true label is the second most probable.

    The outputs of a multi-label model must have ``probabilities`` [images, labels]. If there is also a ``path``
    [images, steps] of label indices, these labels form the sets, and the threshold is not used. The metrics of a label
    treat each image as a binary decision: whether the label is in the image's set.

    Raises:
        EvaluationError: an output is missing, has a wrong shape or is not finite, or the model's threshold is unknown.
    """
    return (_labels if subject.task == "single_label" else _sets)(subject, outputs, split, labels)


def _labels(subject: Subject, outputs: Outputs, split: Split, labels: tuple[str, ...]) -> Result:
    logits = _scores(outputs, ("logits", "probabilities"), split, labels, subject.name)
    if "logits" not in outputs:  # the softmax of the probabilities' logarithms is equal to the probabilities
        logits = np.log(np.maximum(logits, np.finfo(np.float32).tiny))
    logits = logits.astype(np.float32)
    probabilities = outputs.get("probabilities")
    if probabilities is None or probabilities.shape != logits.shape or probabilities.dtype.kind != "f":
        probabilities = np.exp(log_probabilities(logits))
    _require_finite(probabilities, subject.name)
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


def _sets(subject: Subject, outputs: Outputs, split: Split, labels: tuple[str, ...]) -> Result:
    """Measure label sets. Without a ``path_probability``, the mistakes with the most wrong labels come first."""
    truth: Sets = split.classes
    probabilities = _scores(outputs, ("probabilities",), split, labels, subject.name)
    if (path := outputs.get("path")) is not None:  # label indices, where -1 is no label
        if path.ndim != 2 or path.max(initial=-1) >= len(labels):
            raise EvaluationError(
                f"{subject.name} returned paths with labels other than the {len(labels)} labels of the data set."
            )
        sets: Sets = (path[:, :, None] == np.arange(len(labels))).any(axis=1)
    elif subject.threshold is not None:
        sets = set_metrics.decide(probabilities, subject.threshold)
    else:
        raise EvaluationError(
            f"{subject.name} decides with a threshold that the server does not report. Evaluate the model's run or "
            "ONNX file instead."
        )
    outcomes = [np.bincount(pairs, minlength=4).reshape(2, 2) for pairs in (truth * 2 + sets).T]
    differing, confidence = (sets != truth).sum(axis=1), outputs.get("path_probability")
    wrong = np.flatnonzero(differing)
    worst_first = (differing if confidence is None else confidence)[wrong]
    mistakes = [
        Mistake(
            image=int(image),
            true=tuple(np.array(labels)[truth[image]].tolist()),
            predicted=tuple(np.array(labels)[sets[image]].tolist()),
            probability=None if confidence is None else float(confidence[image]),
        )
        for image in wrong[np.argsort(-worst_first, kind="stable")]
    ]
    figures = set_metrics.evaluate(sets, probabilities.astype(np.float32), truth)
    return Result(figures, labels, [per_class(each)[1] for each in outcomes], mistakes)


def _scores(outputs: Outputs, keys: Sequence[str], split: Split, labels: Sequence[str], name: str) -> Array:
    """Return the first of these outputs that the model has."""
    key = next((key for key in keys if key in outputs), None)
    if key is None:
        raise EvaluationError(
            f"{name} has no output {' or '.join(keys)}, which the metrics need. Its outputs are: "
            f"{', '.join(outputs) or '(none)'}."
        )
    shape = [len(split), len(labels)]
    if [*outputs[key].shape] != shape:
        raise EvaluationError(
            f"{name} returned {key} of the shape {[*outputs[key].shape]} for {shape[0]} images, but the data set's "
            f"{shape[1]} classes need the shape {shape}."
        )
    _require_finite(outputs[key], name)
    return outputs[key]


def _require_finite(values: Array, name: str) -> None:
    broken = np.flatnonzero(~np.isfinite(values.astype(np.float64)).all(axis=1))
    if broken.size:
        raise EvaluationError(
            f"{name} returned outputs that are not finite for {broken.size} of {len(values)} images, first for image "
            f"{broken[0]}. The model's training, or its conversion to another precision, failed."
        )
