"""Measures how many label sets of a multi-label model are right, and how many of the labels in the sets are right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.evaluation.subject import Array, EvaluationError, Outputs, Subject
from hangtag.training.metrics import set_metrics
from hangtag.training.metrics.class_metrics import ClassFigures, per_class


@dataclass(frozen=True)
class SetMistake:
    """A wrong label set: the image's index in the split, the true and the predicted set, and the predicted set's
    probability, or None if the probability is unknown."""

    image: int
    true: tuple[str, ...]
    predicted: tuple[str, ...]
    probability: float | None


@dataclass(frozen=True)
class MultiLabelResult:
    """A multi-label model's figures.

    Attributes:
        figures: the figures of training/metrics/set_metrics.py, by name.
        labels: the labels' names, in the order of ``classes``.
        classes: for each label, precision, recall and F1 of the decision whether the label is in the set.
        mistakes: all mistakes, the most confident first; if there are no probabilities, the sets with the most wrong
            labels first.
    """

    figures: Mapping[str, float]
    labels: tuple[str, ...]
    classes: Sequence[ClassFigures]
    mistakes: Sequence[SetMistake]


def measure(
    subject: Subject, outputs: Outputs, truth: npt.NDArray[np.bool_], labels: tuple[str, ...]
) -> MultiLabelResult:
    """Measure a model's outputs against the true label sets.

    Args:
        subject: the model, of which the name and the threshold are used.
        outputs: must have ``probabilities`` [n, labels]. If there is also a ``path`` [n, steps] of label indices, these
            labels form the sets, and the threshold is not used.
        truth: the true label sets, [n, labels].
        labels: the data set's labels.

    Raises:
        EvaluationError: the outputs have a wrong shape or are not finite, or the model's threshold is unknown.
    """
    probabilities = outputs.get("probabilities")
    if probabilities is None or probabilities.shape != truth.shape:
        actual = "none" if probabilities is None else f"probabilities of the shape {list(probabilities.shape)}"
        raise EvaluationError(
            f"{subject.name} must return probabilities of the shape {list(truth.shape)} for {len(truth)} images, but "
            f"returned {actual}."
        )
    if not np.isfinite(probabilities).all():
        raise EvaluationError(f"{subject.name} returned probabilities that are not finite, so its training failed.")
    if "path" in outputs:
        sets = _sets_of_paths(outputs["path"], len(labels), subject.name)
    elif subject.threshold is not None:
        sets = set_metrics.decide(probabilities, subject.threshold)
    else:
        raise EvaluationError(
            f"{subject.name} decides with a threshold that the server does not report. Evaluate the model's run or "
            "ONNX file instead."
        )
    return MultiLabelResult(
        figures=set_metrics.evaluate(sets, probabilities.astype(np.float32), truth),
        labels=labels,
        classes=[_one_label(sets[:, index], truth[:, index]) for index in range(len(labels))],
        mistakes=_mistakes(sets, truth, labels, outputs.get("path_probability")),
    )


def _sets_of_paths(path: Array, count: int, name: str) -> npt.NDArray[np.bool_]:
    """Convert label indices [n, steps], where -1 is no label, into label sets [n, labels]."""
    if path.ndim != 2 or path.max(initial=-1) >= count:
        raise EvaluationError(f"{name} returned paths with labels other than the {count} labels of the data set.")
    sets: npt.NDArray[np.bool_] = (path[:, :, None] == np.arange(count)).any(axis=1)
    return sets


def _one_label(predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> ClassFigures:
    outcomes = np.bincount(true * 2 + predicted, minlength=4).reshape(2, 2)
    return per_class(outcomes.tolist())[1]


def _mistakes(
    sets: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], labels: tuple[str, ...], confidence: Array | None
) -> list[SetMistake]:
    differing = (sets != truth).sum(axis=1)
    wrong = np.flatnonzero(differing)
    worst_first = differing[wrong] if confidence is None else confidence[wrong]
    return [
        SetMistake(
            image=int(image),
            true=_names(truth[image], labels),
            predicted=_names(sets[image], labels),
            probability=None if confidence is None else float(confidence[image]),
        )
        for image in wrong[np.argsort(-worst_first, kind="stable")]
    ]


def _names(members: npt.NDArray[np.bool_], labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(label for label, member in zip(labels, members, strict=True) if member)
