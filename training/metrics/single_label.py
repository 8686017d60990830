"""Figures of a classifier from its logits. The same code serves a checkpoint, an ONNX file and a server."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.training.data.fashion_mnist import Classes


@dataclass(frozen=True)
class Evaluation:
    """accuracy in [0, 1]; loss is the mean cross-entropy in nats; confusion[true][predicted] counts samples."""

    accuracy: float
    loss: float
    confusion: list[list[int]]


def evaluate(logits: npt.NDArray[np.float32], classes: Classes) -> Evaluation:
    """Accuracy, cross-entropy and confusion matrix of logits [n, k] against classes [n]."""
    predicted = logits.argmax(axis=1)
    return Evaluation(
        accuracy=float((predicted == classes).mean()),
        loss=float(-log_probabilities(logits)[np.arange(len(classes)), classes].mean()),
        confusion=confusion_matrix(classes, predicted, logits.shape[1]),
    )


def log_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The logarithm of the softmax of logits [n, k], without overflow however large they are: [n, k]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logarithms: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logarithms


def confusion_matrix(classes: Classes, predicted: npt.NDArray[np.int64], count: int) -> list[list[int]]:
    """How often each of count classes [true] was taken for each [predicted]."""
    pairs = classes.astype(np.int64) * count + predicted
    counted: list[list[int]] = np.bincount(pairs, minlength=count * count).reshape(count, count).tolist()
    return counted


@dataclass(frozen=True)
class ClassFigures:
    """Of one class: precision, recall and F1 in [0, 1], 0 where nothing was predicted; support counts its samples."""

    precision: float
    recall: float
    f1: float
    support: int


def per_class(confusion: Sequence[Sequence[int]]) -> list[ClassFigures]:
    """Each class's figures from confusion[true][predicted]. F1 is the harmonic mean of precision and recall."""
    counts = np.asarray(confusion, np.int64)
    right, predicted, support = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    return [
        ClassFigures(
            precision=float(hits / max(claimed, 1)),
            recall=float(hits / max(there, 1)),
            f1=float(2 * hits / max(claimed + there, 1)),
            support=int(there),
        )
        for hits, claimed, there in zip(right, predicted, support, strict=True)
    ]


def mean_severity(confusion: Sequence[Sequence[int]], distances: npt.NDArray[np.float64]) -> float | None:
    """The mean distance from the true to the predicted class over the mistakes alone; None where there are none.

    Bertinetto et al., Making Better Mistakes, CVPR 2020, call it the average mistake severity. distances [k, k].
    """
    counts = np.asarray(confusion, np.int64)
    mistakes = counts.sum() - counts.trace()
    off_diagonal = np.where(np.eye(len(counts), dtype=bool), 0.0, distances)
    return float((counts * off_diagonal).sum() / mistakes) if mistakes else None


def distance_at_k(
    logits: npt.NDArray[np.float32], classes: Classes, distances: npt.NDArray[np.float64], k: int
) -> float:
    """The mean distance from the true class to the k likeliest, over all samples: how bad a short list is.

    Bertinetto et al., as above, call it the average hierarchical distance of top-k. logits [n, classes].
    """
    likeliest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float(distances[classes.astype(np.int64)[:, None], likeliest].mean())


def nearest_expected(logits: npt.NDArray[np.float32], distances: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """For each sample the class that is nearest to the truth on average, by the model's own probabilities: [n].

    What Karthik et al. (No Cost Likelihood Manipulation at Test Time for Making Better Mistakes in Deep Networks, ICLR
    2021) set against losses: the best that can be made of the probabilities without training anew. logits [n, classes].
    """
    nearest: npt.NDArray[np.int64] = (np.exp(log_probabilities(logits)) @ distances).argmin(axis=1)
    return nearest
