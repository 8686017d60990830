"""Computes a classifier's metrics from its logits, for a checkpoint, an ONNX file and a server alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.training.data.dataset import Classes

MOST_IN_MATRIX = 40  # a confusion matrix of more labels would be unreadable


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a classifier."""

    accuracy: float  # the share of samples that are classified correctly, in [0, 1]
    balanced_accuracy: float  # the accuracy within each class, averaged over the classes
    loss: float  # the mean cross-entropy, in nats
    confusion: list[list[int]]  # the number of samples for each true and predicted class, [true][predicted]


def evaluate(logits: npt.NDArray[np.float32], classes: Classes) -> Evaluation:
    """Compute the metrics from logits [n, k] and true classes [n]."""
    predicted, count = logits.argmax(axis=1), logits.shape[1]
    pairs = classes.astype(np.int64) * count + predicted
    confusion = np.bincount(pairs, minlength=count * count).reshape(count, count)
    present = confusion.sum(axis=1) > 0
    return Evaluation(
        accuracy=float((predicted == classes).mean()),
        balanced_accuracy=float((confusion.diagonal()[present] / confusion.sum(axis=1)[present]).mean()),
        loss=float(-log_probabilities(logits)[np.arange(len(classes)), classes].mean()),
        confusion=confusion.tolist(),
    )


def log_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the logarithm [n, k] of the softmax of logits [n, k], without overflow."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logarithms: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logarithms


def worst(logits: npt.NDArray[np.float32], classes: Classes, count: int) -> list[dict[str, float]]:
    """Return the ``count`` samples with the highest cross-entropy, the worst first, from logits [n, k] and classes [n].

    A sample has its index "image", its class "true", the "predicted" class with its "probability", and a "loss".
    """
    logarithms, predicted = log_probabilities(logits), logits.argmax(axis=1)
    losses, surest = -logarithms[np.arange(len(classes)), classes], np.exp(logarithms.max(axis=1))
    order = np.argsort(-losses, kind="stable")[:count]
    columns = (each.tolist() for each in (order, classes[order], predicted[order], surest[order], losses[order]))
    names = "image", "true", "predicted", "probability", "loss"
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class ClassFigures:
    """The metrics of one class. 0 / 0 counts as 0. Support is the number of the class's samples."""

    precision: float
    recall: float
    f1: float
    support: int


def per_class(confusion: Sequence[Sequence[int]] | npt.NDArray[np.int64]) -> list[ClassFigures]:
    """Return the metrics of each class from a confusion matrix. F1 is the harmonic mean of precision and recall."""
    counts = np.asarray(confusion, np.int64)
    correct, predicted, support = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    totals = predicted, support, predicted + support
    precision, recall, half_of_f1 = (correct / np.maximum(total, 1) for total in totals)
    columns = (each.tolist() for each in (precision, recall, 2 * half_of_f1, support))
    return [ClassFigures(*row) for row in zip(*columns, strict=True)]
