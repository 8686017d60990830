"""Figures of a classifier from its logits. The same code serves a checkpoint, an ONNX file and a server."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data import Classes


@dataclass(frozen=True)
class Evaluation:
    """accuracy in [0, 1]; loss is the mean cross-entropy in nats; confusion[true][predicted] counts samples."""

    accuracy: float
    loss: float
    confusion: list[list[int]]


def evaluate(logits: npt.NDArray[np.float32], classes: Classes) -> Evaluation:
    """Accuracy, cross-entropy and confusion matrix of logits [n, k] against classes [n]."""
    count = logits.shape[1]
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    predicted = logits.argmax(axis=1)
    pairs = classes.astype(np.int64) * count + predicted
    return Evaluation(
        accuracy=float((predicted == classes).mean()),
        loss=float(-log_probabilities[np.arange(len(classes)), classes].mean()),
        confusion=np.bincount(pairs, minlength=count * count).reshape(count, count).tolist(),
    )
