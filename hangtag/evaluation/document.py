"""Writes an evaluation as JSON for programs. The types in this module are the schema, and `SCHEMA` is its version.

Within a version of the schema, fields are only added. The rows and columns of the confusion matrix are in the order of
the field `labels`; all other fields give labels by name.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TypedDict, cast

from hangtag.evaluation.multi_label import MultiLabelResult
from hangtag.evaluation.single_label import Mistake, SingleLabelResult
from hangtag.evaluation.subject import Subject
from hangtag.training.metrics.class_metrics import ClassFigures

SCHEMA = "hangtag.evaluation/2"
MISTAKES = 100
"""The largest number of mistakes in a document. A document lists the most confident mistakes."""


class SubjectDocument(TypedDict):
    """The evaluated model."""

    kind: str  # run, onnx or server
    name: str
    task: str  # single_label or multi_label
    details: dict[str, str]  # For a run: folder, model, trial. For a served model: address, version.


class DataDocument(TypedDict):
    """The images on which the model was evaluated."""

    dataset: str
    split: str  # validation or test for a data set; samples for the user's own pictures
    images: int
    source: str  # the folder from which the data set was read


class ClassDocument(TypedDict):
    """The precision, recall and F1 of a class, in [0, 1]. `support` is the number of images of the class."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class MistakeDocument(TypedDict):
    """A wrong prediction: the image's index in the split, both labels, and the predicted label's probability."""

    image: int
    true: str
    predicted: str
    probability: float
    distance: float | None  # between the two labels: 0 is the same, 1 the farthest pair; null without distances


class SingleLabelDocument(TypedDict):
    """The document of a single-label model."""

    schema: str
    subject: SubjectDocument
    data: DataDocument
    accuracy: float
    loss: float  # mean cross-entropy in nats, computed from the logits
    calibration_error: float  # the expected calibration error of the probabilities, computed with 15 bins
    severity: float | None  # mean distance of the labels mixed up; null without mistakes, or without distances
    second: float | None  # share of the mistakes whose true label is the second most probable; null if there are none
    labels: list[str]
    classes: list[ClassDocument]
    confusion: list[list[int]]  # confusion[true][predicted] is the number of images with these two labels
    mistakes: list[MistakeDocument]  # the most confident mistake comes first


class SetMistakeDocument(TypedDict):
    """A wrong set of labels. `probability` is the predicted set's probability; null if the model returns none."""

    image: int
    true: list[str]
    predicted: list[str]
    probability: float | None


class MultiLabelDocument(TypedDict):
    """The document of a multi-label model."""

    schema: str
    subject: SubjectDocument
    data: DataDocument
    figures: dict[str, float]  # c_precision, c_recall, c_f1, o_precision, o_recall, o_f1, mean_ap, exact_match, ...
    labels: list[str]
    classes: list[ClassDocument]  # figures of the decision whether a label is in the set, for each label
    mistakes: list[SetMistakeDocument]  # the most confident come first; without probabilities, the most wrong labels


def single_label(subject: Subject, data: DataDocument, result: SingleLabelResult) -> SingleLabelDocument:
    """Build the document of a single-label model's evaluation."""
    return {
        "schema": SCHEMA,
        "subject": _subject(subject),
        "data": data,
        "accuracy": result.evaluation.accuracy,
        "loss": result.evaluation.loss,
        "calibration_error": result.calibration_error,
        "severity": result.severity,
        "second": result.second,
        "labels": list(result.labels),
        "classes": _classes(result.labels, result.classes),
        "confusion": result.evaluation.confusion,
        "mistakes": [_mistake(mistake, result.labels) for mistake in result.mistakes[:MISTAKES]],
    }


def multi_label(subject: Subject, data: DataDocument, result: MultiLabelResult) -> MultiLabelDocument:
    """Build the document of a multi-label model's evaluation."""
    return {
        "schema": SCHEMA,
        "subject": _subject(subject),
        "data": data,
        "figures": dict(result.figures),
        "labels": list(result.labels),
        "classes": _classes(result.labels, result.classes),
        "mistakes": [cast(SetMistakeDocument, asdict(mistake)) for mistake in result.mistakes[:MISTAKES]],
    }


def _subject(subject: Subject) -> SubjectDocument:
    return {"kind": subject.kind, "name": subject.name, "task": subject.task, "details": dict(subject.details)}


def _mistake(mistake: Mistake, labels: Sequence[str]) -> MistakeDocument:
    names = {"true": labels[mistake.true], "predicted": labels[mistake.predicted]}
    return cast(MistakeDocument, asdict(mistake) | names)


def _classes(labels: Sequence[str], classes: Sequence[ClassFigures]) -> list[ClassDocument]:
    rows = zip(labels, classes, strict=True)
    return [cast(ClassDocument, {"label": label, **asdict(figures)}) for label, figures in rows]
