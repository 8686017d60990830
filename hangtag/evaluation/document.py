"""An evaluation as JSON, for programs: the types below are the schema, and `SCHEMA` its version.

Fields are only ever added within a version. Labels are written out; a confusion matrix is in the order of `labels`.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

from hangtag.evaluation.multi_label import MultiLabelResult
from hangtag.evaluation.single_label import SingleLabelResult
from hangtag.evaluation.subject import Subject
from hangtag.training.data.fashion_mnist import LABELS
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.metrics.single_label import ClassFigures

SCHEMA = "hangtag.evaluation/1"
MISTAKES = 100
"""The document lists so many mistakes at most, the most confident ones."""


class SubjectDocument(TypedDict):
    """What was evaluated."""

    kind: str  # run, onnx or server
    name: str
    task: str  # single_label or multi_label
    details: dict[str, str]  # Of a run folder, model, whether it was a trial; of a served model address and version.


class DataDocument(TypedDict):
    """What it was asked about."""

    dataset: str
    split: str  # validation or test
    images: int
    source: str  # The folder that the data set was read from.


class ClassDocument(TypedDict):
    """One class's figures, in [0, 1]; support counts its images."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class MistakeDocument(TypedDict):
    """A wrong answer. `image` is its place in the split, `probability` what the wrong label was given."""

    image: int
    true: str
    predicted: str
    probability: float
    distance: float  # Of the two labels: 0 the same, 1 the farthest pair.


class SeverityDocument(TypedDict):
    """How bad the mistakes are, by the distance of labels."""

    mean: float | None  # Over the mistakes alone; null where there are none.
    at: dict[str, float]  # "k" to the mean distance of the k likeliest labels from the true one, over all images.
    distances: dict[str, Any]  # The matrix's digest and provenance.
    nearest: dict[str, float | None]  # accuracy and mean, if the least expected distance decided.
    second: float | None  # The share of the mistakes whose true label is the second likeliest; null without any.


class SingleLabelDocument(TypedDict):
    """The whole document of a single-label model."""

    schema: str
    subject: SubjectDocument
    data: DataDocument
    accuracy: float
    loss: float  # Mean cross-entropy, in nats.
    severity: SeverityDocument
    labels: list[str]
    classes: list[ClassDocument]
    confusion: list[list[int]]  # confusion[true][predicted] counts images.
    mistakes: list[MistakeDocument]  # The most confident ones first.


class SetMistakeDocument(TypedDict):
    """A wrong set of labels. `probability` is what the whole set was given; null where the model does not say."""

    image: int
    true: list[str]
    predicted: list[str]
    probability: float | None


class MultiLabelDocument(TypedDict):
    """The whole document of a multi-label model."""

    schema: str
    subject: SubjectDocument
    data: DataDocument
    figures: dict[str, float]  # c_precision, c_recall, c_f1, o_precision, o_recall, o_f1, mean_ap, exact_match, ...
    labels: list[str]
    classes: list[ClassDocument]  # Of each label, whether it is in the set.
    mistakes: list[SetMistakeDocument]  # The most confident ones first; without probabilities the worst.


def single_label(
    subject: Subject, data: DataDocument, result: SingleLabelResult, distances: LabelDistances
) -> SingleLabelDocument:
    """The document of a single-label model's evaluation."""
    return {
        "schema": SCHEMA,
        "subject": _subject(subject),
        "data": data,
        "accuracy": result.evaluation.accuracy,
        "loss": result.evaluation.loss,
        "severity": {
            "mean": result.severity,
            "at": {str(k): value for k, value in result.distance_at.items()},
            "distances": {"digest": distances.digest, "provenance": dict(distances.provenance)},
            "nearest": {"accuracy": result.nearest.accuracy, "mean": result.nearest.severity},
            "second": result.second,
        },
        "labels": list(LABELS),
        "classes": _classes(LABELS, result.classes),
        "confusion": result.evaluation.confusion,
        "mistakes": [
            {
                "image": mistake.image,
                "true": LABELS[mistake.true],
                "predicted": LABELS[mistake.predicted],
                "probability": mistake.probability,
                "distance": mistake.distance,
            }
            for mistake in result.mistakes[:MISTAKES]
        ],
    }


def multi_label(subject: Subject, data: DataDocument, result: MultiLabelResult) -> MultiLabelDocument:
    """The document of a multi-label model's evaluation."""
    return {
        "schema": SCHEMA,
        "subject": _subject(subject),
        "data": data,
        "figures": dict(result.figures),
        "labels": list(result.labels),
        "classes": _classes(result.labels, result.classes),
        "mistakes": [
            {
                "image": mistake.image,
                "true": list(mistake.true),
                "predicted": list(mistake.predicted),
                "probability": mistake.probability,
            }
            for mistake in result.mistakes[:MISTAKES]
        ],
    }


def _subject(subject: Subject) -> SubjectDocument:
    return {"kind": subject.kind, "name": subject.name, "task": subject.task, "details": dict(subject.details)}


def _classes(labels: Sequence[str], classes: Sequence[ClassFigures]) -> list[ClassDocument]:
    return [
        {
            "label": label,
            "precision": figures.precision,
            "recall": figures.recall,
            "f1": figures.f1,
            "support": figures.support,
        }
        for label, figures in zip(labels, classes, strict=True)
    ]
