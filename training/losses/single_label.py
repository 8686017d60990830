"""What a classifier is punished for: logits [batch, classes] against classes [batch], or against a teacher's logits.

Two losses know how bad a mistake is, by a matrix d of label distances in [0, 1]. Bertinetto et al. (Making Better
Mistakes, CVPR 2020) have them for a tree of labels; here a label's surroundings take the place of its ancestors:

    soft labels          the target is not one class but all, the near ones more: q_j ~ exp(-beta d(y, j))
    embedding distance   their hierarchical cross-entropy. To have said y's surroundings is worth something too:
                         -(1 - w) log p_y - w log sum_j exp(-beta d(y, j)) p_j

In both, the larger beta is, the less the distances matter; without limit both are the plain cross-entropy.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from hangtag.training.errors import LabelDistanceError
from hangtag.training.labels.distance import LabelDistances

ClassLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits [batch, classes] and classes [batch] to the mean loss, a scalar."""


BETA, LOSS_WEIGHT = 5.0, 0.5


@dataclass(frozen=True)
class DistanceLoss:
    """A loss that knows how bad a mistake is. weight is of the distances' part; plain cross-entropy gets the rest."""

    name: Literal["soft-labels", "embedding-distance"]
    beta: float
    weight: float
    distances: str  # the matrix's digest
    file: str | None = field(default=None, compare=False)  # where it lay; None: what ships


def class_loss(
    loss: DistanceLoss | None, smoothing: float, distances: LabelDistances | None, device: torch.device
) -> ClassLoss:
    """Cross-entropy with label smoothing and, if asked for, the distances' part.

    Raises LabelDistanceError when the loss needs distances and these are not the ones that it names.
    """

    def plain(logits: Tensor, classes: Tensor) -> Tensor:
        return functional.cross_entropy(logits, classes, label_smoothing=smoothing)

    if loss is None:
        return plain
    if distances is None or distances.digest != loss.distances:
        raise LabelDistanceError("the distances of labels are not those that the run's loss names.")
    matrix = torch.tensor(distances.matrix, dtype=torch.float32, device=device)
    if loss.name == "soft-labels":
        soft = soft_labels(matrix, loss.beta)
        return _mixed(plain, lambda logits, classes: functional.cross_entropy(logits, soft[classes]), loss.weight)
    return _mixed(plain, lambda logits, classes: surroundings(logits, classes, matrix, loss.beta), loss.weight)


def soft_labels(distances: Tensor, beta: float) -> Tensor:
    """Targets [classes, classes], a row for each true class, each a distribution: softmax of -beta d."""
    return functional.softmax(-beta * distances, dim=1)


def surroundings(logits: Tensor, classes: Tensor, distances: Tensor, beta: float) -> Tensor:
    """The mean of -log sum_j exp(-beta d(y, j)) p_j: how little of the probability lies near the true class."""
    return -torch.logsumexp(functional.log_softmax(logits, dim=1) - beta * distances[classes], dim=1).mean()


def divergence(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """The Kullback-Leibler divergence from the teacher's answers, times the temperature squared (Hinton et al.)."""
    mean = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=1),
        functional.log_softmax(taught / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return mean * temperature**2


def _mixed(plain: ClassLoss, other: ClassLoss, weight: float) -> ClassLoss:
    return lambda logits, classes: (1 - weight) * plain(logits, classes) + weight * other(logits, classes)
