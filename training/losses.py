"""What a network minimises: a teacher's part of a classifier's loss, and the objectives of multi-label networks.

The other part of a classifier's loss is PyTorch's cross-entropy. An objective says how a multi-label network learns and
how its outputs are read; CNN-RNN has one, and its baselines have two. Pixels are [batch, 1, 64, 64] in [0, 1]; label
sets are [batch, labels], bool.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hangtag.training.data.outfits import MAX_LABELS
from hangtag.training.networks.cnn_rnn import CnnRnn, beam_search

_IGNORED = -100  # cross_entropy's ignore_index: no loss at this step


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The Kullback-Leibler divergence from the teacher's distribution, times temperature squared (Hinton et al.)."""
    mean = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=1),
        functional.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return mean * temperature**2


class Objective(ABC):
    """The loss of a multi-label network, and how to read its outputs."""

    def __init__(self, label_order: Tensor) -> None:
        """label_order: the labels' indices [labels], the most frequent label first."""
        self.label_order = label_order

    @abstractmethod
    def training_step(
        self, network: nn.Module, pixels: Tensor, labels: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and how many of its label sets the network predicts exactly."""

    @abstractmethod
    def predict(self, network: nn.Module, pixels: Tensor) -> Sequence[Tensor]:
        """Scores [batch, labels] in [0, 1]; and, if the network decides itself, label sets [batch, labels], bool."""


class LabelPaths(Objective):
    """CNN-RNN: a label set is a path, most frequent label first, then END; cross-entropy per step, teacher forcing."""

    def training_step(
        self, network: nn.Module, pixels: Tensor, labels: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        targets = self.paths(labels)  # [batch, MAX_LABELS + 1]
        end = len(self.label_order)
        inputs = torch.cat([torch.full_like(targets[:, :1], end), targets[:, :-1]], dim=1)
        logits = network(pixels, inputs.where(inputs >= 0, end)).float()  # [batch, MAX_LABELS + 1, labels + 1]
        loss = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED, label_smoothing=smoothing
        )
        correct = (logits.argmax(dim=2) == targets) | (targets == _IGNORED)
        return loss, correct.all(dim=1).sum()

    def predict(self, network: nn.Module, pixels: Tensor) -> Sequence[Tensor]:
        assert isinstance(network, CnnRnn)
        beam = beam_search(network, pixels)
        labels = torch.arange(network.labels, device=pixels.device)
        return beam.probabilities, (beam.path[:, :, None] == labels).any(dim=1)

    def paths(self, labels: Tensor) -> Tensor:
        """The targets of each step, [batch, MAX_LABELS + 1]: the labels, END, then steps without a loss.

        If a set has more labels than a path can hold, the rarest are left out.
        """
        present, first = labels[:, self.label_order].sort(dim=1, descending=True, stable=True)
        present, first = present[:, :MAX_LABELS], first[:, :MAX_LABELS]
        path = functional.pad(self.label_order[first].where(present, _IGNORED), (0, 1), value=_IGNORED)
        return path.scatter(1, present.sum(dim=1, keepdim=True), len(self.label_order))


class Sigmoids(Objective):
    """The labels are independent: binary cross-entropy of each label's logit."""

    def training_step(
        self, network: nn.Module, pixels: Tensor, labels: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        logits = network(pixels).float()  # [batch, labels]
        targets = labels.float() * (1 - smoothing) + smoothing / 2
        loss = functional.binary_cross_entropy_with_logits(logits, targets)
        return loss, ((logits > 0) == labels).all(dim=1).sum()

    def predict(self, network: nn.Module, pixels: Tensor) -> Sequence[Tensor]:
        return (network(pixels).sigmoid(),)


class SoftmaxRanking(Objective):
    """The labels compete: cross-entropy against the label set, normalised to a distribution (Gong et al., 2014)."""

    def training_step(
        self, network: nn.Module, pixels: Tensor, labels: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        logits = network(pixels).float()  # [batch, labels]
        targets = labels.float() / labels.sum(dim=1, keepdim=True)
        loss = functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        # A set is predicted correctly if each of its labels outranks every other label.
        lowest = logits.where(labels, torch.inf).amin(dim=1)
        return loss, (lowest > logits.where(~labels, -torch.inf).amax(dim=1)).sum()

    def predict(self, network: nn.Module, pixels: Tensor) -> Sequence[Tensor]:
        return (network(pixels).softmax(dim=1),)
