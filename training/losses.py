"""The losses of networks: what a teacher adds to a classifier's loss, and the objectives of multi-label networks.

Without a teacher, a classifier's loss is PyTorch's cross-entropy. Pixels of multi-label networks are [batch, 1, 64, 64]
in [0, 1]. Label sets are bool [batch, labels].
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hangtag.training.data.outfits import MAX_LABELS
from hangtag.training.networks.cnn_rnn import CnnRnn, beam_search

_IGNORED = -100  # cross_entropy ignores steps with this target
Step = tuple[Tensor, Tensor]  # the loss of a batch, and the number of label sets that are predicted exactly


class Objective(NamedTuple):
    """A multi-label network's loss, and the function that turns the network's outputs into predictions. The loss needs
    the order of the labels, the most frequent label first, [labels]. Predictions are scores in [0, 1] and, if the
    network itself predicts label sets, these sets as bool, both [batch, labels]."""

    loss: Callable[[nn.Module, Tensor, Tensor, Tensor, float], Step]
    predict: Callable[[nn.Module, Tensor], Sequence[Tensor]]


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence from the teacher's distribution, times the squared temperature (Hinton et
    al., Distilling the Knowledge in a Neural Network, 2015)."""
    mean = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=1),
        functional.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return mean * temperature**2


def path_loss(network: nn.Module, pixels: Tensor, labels: Tensor, order: Tensor, smoothing: float) -> Step:
    """Return the cross-entropy of every step of CNN-RNN. The steps' inputs are the true labels (teacher forcing)."""
    targets = label_paths(labels, order)  # [batch, MAX_LABELS + 1]
    end = len(order)
    inputs = torch.cat([torch.full_like(targets[:, :1], end), targets[:, :-1]], dim=1)
    logits = network(pixels, inputs.where(inputs >= 0, end)).float()  # [batch, MAX_LABELS + 1, labels + 1]
    loss = functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED, label_smoothing=smoothing
    )
    correct = (logits.argmax(dim=2) == targets) | (targets == _IGNORED)
    return loss, correct.all(dim=1).sum()


def label_paths(labels: Tensor, order: Tensor) -> Tensor:
    """Return label sets as paths, [batch, MAX_LABELS + 1]: the labels in order, then END, then padding that the
    loss ignores. If a set has more than MAX_LABELS labels, its path leaves out the rarest."""
    present, first = labels[:, order].sort(dim=1, descending=True, stable=True)
    present, first = present[:, :MAX_LABELS], first[:, :MAX_LABELS]
    path = functional.pad(order[first].where(present, _IGNORED), (0, 1), value=_IGNORED)
    return path.scatter(1, present.sum(dim=1, keepdim=True), len(order))


def _predict_paths(network: nn.Module, pixels: Tensor) -> Sequence[Tensor]:
    assert isinstance(network, CnnRnn)
    beam = beam_search(network, pixels)
    labels = torch.arange(network.labels, device=pixels.device)
    return beam.probabilities, (beam.path[:, :, None] == labels).any(dim=1)


def sigmoid_loss(network: nn.Module, pixels: Tensor, labels: Tensor, _: Tensor, smoothing: float) -> Step:
    """Return the binary cross-entropy of each label's logit, as if the labels were independent."""
    logits = network(pixels).float()  # [batch, labels]
    targets = labels.float() * (1 - smoothing) + smoothing / 2
    loss = functional.binary_cross_entropy_with_logits(logits, targets)
    return loss, ((logits > 0) == labels).all(dim=1).sum()


def ranking_loss(network: nn.Module, pixels: Tensor, labels: Tensor, _: Tensor, smoothing: float) -> Step:
    """Return the cross-entropy against a distribution in which the labels of a set are equally probable (Gong et al.,
    2014)."""
    logits = network(pixels).float()  # [batch, labels]
    targets = labels.float() / labels.sum(dim=1, keepdim=True)
    loss = functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    # A label set is predicted correctly if the lowest logit of its labels exceeds the logits of all other labels.
    lowest = logits.where(labels, torch.inf).amin(dim=1)
    return loss, (lowest > logits.where(~labels, -torch.inf).amax(dim=1)).sum()


LABEL_PATHS = Objective(path_loss, _predict_paths)
SIGMOIDS = Objective(sigmoid_loss, lambda network, pixels: (network(pixels).sigmoid(),))
SOFTMAX_RANKING = Objective(ranking_loss, lambda network, pixels: (network(pixels).softmax(dim=1),))
