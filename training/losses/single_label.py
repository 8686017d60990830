"""The losses of a classifier: logits [batch, classes] against classes [batch], or against a teacher's logits.

Two losses weigh mistakes by a matrix d of label distances in [0, 1]. Bertinetto et al. (Making Better Mistakes, CVPR
2020) define them for a tree of labels; here a label's neighbourhood takes the place of its ancestors:

    soft-labels          the target is a distribution over all classes: q_j ~ exp(-beta d(y, j))
    embedding-distance   their hierarchical cross-entropy, which also rewards probability near the true class y:
                         -(1 - w) log p_y - w log sum_j exp(-beta d(y, j)) p_j

The larger beta is, the less the distances matter; in the limit both losses are the plain cross-entropy.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from hangtag.training.errors import LabelDistanceError
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.recipes import DistanceLoss

ClassLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits [batch, classes] and classes [batch] to the mean loss, a scalar."""


def class_loss(
    loss: DistanceLoss | None,
    smoothing: float,
    distances: LabelDistances | None,
    device: torch.device,
    weights: Tensor | None = None,
) -> ClassLoss:
    """The cross-entropy with label smoothing; if ``loss`` is not None, mixed with the part that uses distances.

    Args:
        loss: The loss with distances, or None.
        smoothing: The label smoothing of the plain part.
        distances: The distances that ``loss`` names.
        device: The device on which the network computes.
        weights: The weight of each class in the plain part, [labels]; None for equal weights.

    Raises:
        LabelDistanceError: The loss needs distances, and ``distances`` are not the distances that it names.
    """

    plain = partial(functional.cross_entropy, weight=weights, label_smoothing=smoothing)
    if loss is None:
        return plain
    if distances is None or distances.digest != loss.distances:
        raise LabelDistanceError("the label distances differ from those that the run's loss names.")
    matrix = torch.tensor(distances.matrix, dtype=torch.float32, device=device)
    soft = soft_labels(matrix, loss.beta)

    def mixed(logits: Tensor, classes: Tensor) -> Tensor:
        if loss.name == "soft-labels":
            by_distance = functional.cross_entropy(logits, soft[classes])
        else:
            by_distance = neighbourhood_loss(logits, classes, matrix, loss.beta)
        return (1 - loss.weight) * plain(logits, classes) + loss.weight * by_distance

    return mixed


def soft_labels(distances: Tensor, beta: float) -> Tensor:
    """The targets [classes, classes]: for each true class a distribution, the softmax of -beta d."""
    return functional.softmax(-beta * distances, dim=1)


def neighbourhood_loss(logits: Tensor, classes: Tensor, distances: Tensor, beta: float) -> Tensor:
    """The mean of -log sum_j exp(-beta d(y, j)) p_j. It is lower if more probability is near the true class."""
    return -torch.logsumexp(functional.log_softmax(logits, dim=1) - beta * distances[classes], dim=1).mean()


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The Kullback-Leibler divergence from the teacher's distribution, times temperature squared (Hinton et al.)."""
    mean = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=1),
        functional.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return mean * temperature**2
