"""How a multi-label network learns, and how its answer is read: one objective for CNN-RNN and one for each baseline.

Pixels are [batch, 64, 64] in [0, 1]; label sets are [batch, labels], bool.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from hangtag.training.networks.cnn_rnn import MAX_LABELS, CnnRnn, beam_search
from hangtag.training.networks.multi_label import CnnEmbedding, CnnLabels
from hangtag.training.tasks.task import Step

_NO_STEP = -100  # what cross_entropy leaves out


class Answer(NamedTuple):
    """Scores [batch, labels] in [0, 1], and the label sets, if the network decides by itself."""

    scores: Tensor
    sets: Tensor | None


class Objective(Protocol):
    """A network's loss and answers. The order lists the labels, commonest first."""

    def __init__(self, order: Tensor) -> None: ...

    def network(self) -> nn.Module: ...

    def step(self, network: nn.Module, pixels: Tensor, labels: Tensor, smoothing: float) -> Step: ...

    def answer(self, network: nn.Module, pixels: Tensor) -> Answer: ...


class LabelPaths:
    """CNN-RNN: a label set is a path, commonest label first, then the mark; cross-entropy per step, teacher forcing."""

    def __init__(self, order: Tensor) -> None:
        self._order = order

    def network(self) -> nn.Module:
        return CnnRnn(len(self._order))

    def step(self, network: nn.Module, pixels: Tensor, labels: Tensor, smoothing: float) -> Step:
        targets = self.paths(labels)
        mark = len(self._order)
        read = torch.cat([torch.full_like(targets[:, :1], mark), targets[:, :-1]], dim=1)
        logits = network(pixels, read.where(read >= 0, mark)).float()
        loss = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=_NO_STEP, label_smoothing=smoothing
        )
        right = (logits.argmax(dim=2) == targets) | (targets == _NO_STEP)
        return Step(loss, right.all(dim=1).sum())

    def answer(self, network: nn.Module, pixels: Tensor) -> Answer:
        assert isinstance(network, CnnRnn)
        beam = beam_search(network, pixels)
        labels = torch.arange(network.labels, device=pixels.device)
        return Answer(beam.probabilities, (beam.path[:, :, None] == labels).any(dim=1))

    def paths(self, labels: Tensor) -> Tensor:
        """What to predict at each step, [batch, MAX_LABELS + 1]: the labels, the mark, then nothing.

        Of a set with more labels than a path can hold, the rarest are left out.
        """
        present, first = labels[:, self._order].sort(dim=1, descending=True, stable=True)
        present, first = present[:, :MAX_LABELS], first[:, :MAX_LABELS]
        path = functional.pad(self._order[first].where(present, _NO_STEP), (0, 1), value=_NO_STEP)
        return path.scatter(1, present.sum(dim=1, keepdim=True), len(self._order))


class _Scored:
    """What the baselines share: a network that gives one logit per label."""

    build: Callable[[int], nn.Module] = CnnLabels

    def __init__(self, order: Tensor) -> None:
        self._labels = len(order)

    def network(self) -> nn.Module:
        return type(self).build(self._labels)


class Sigmoids(_Scored):
    """Every label by itself: binary cross-entropy."""

    def step(self, network: nn.Module, pixels: Tensor, labels: Tensor, smoothing: float) -> Step:
        logits = network(pixels).float()
        wanted = labels.float() * (1 - smoothing) + smoothing / 2
        loss = functional.binary_cross_entropy_with_logits(logits, wanted)
        return Step(loss, ((logits > 0) == labels).all(dim=1).sum())

    def answer(self, network: nn.Module, pixels: Tensor) -> Answer:
        return Answer(network(pixels).sigmoid(), None)


class EmbeddingSigmoids(Sigmoids):
    """CNN-RNN without the RNN, every label by itself in the joint space."""

    build = CnnEmbedding


class SoftmaxRanking(_Scored):
    """The labels compete: cross-entropy against the label set, normalised to a distribution (Gong et al., 2014)."""

    def step(self, network: nn.Module, pixels: Tensor, labels: Tensor, smoothing: float) -> Step:
        logits = network(pixels).float()
        wanted = labels.float() / labels.sum(dim=1, keepdim=True)
        loss = functional.cross_entropy(logits, wanted, label_smoothing=smoothing)
        lowest = logits.where(labels, torch.inf).amin(dim=1)
        return Step(loss, (lowest > logits.where(~labels, -torch.inf).amax(dim=1)).sum())

    def answer(self, network: nn.Module, pixels: Tensor) -> Answer:
        return Answer(network(pixels).softmax(dim=1), None)


OBJECTIVES: Mapping[str, type[Objective]] = {
    "cnn_rnn": LabelPaths,
    "sigmoids": Sigmoids,
    "softmax_ranking": SoftmaxRanking,
    "cnn_embedding": EmbeddingSigmoids,
}
