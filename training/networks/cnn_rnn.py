"""CNN-RNN for images with several labels: Wang et al., CVPR 2016, with a CNN of our own in place of VGG-16.

The image goes through the CNN once. Labels are predicted one after another, as a path that a mark ends; every label
is read, and scored, by the same embedding. Equation numbers below are the paper's.

Pixels are in [0, 1], [batch, 64, 64]. Labels are indices 0..labels-1; the index ``labels`` is the mark, which also
stands for "nothing read yet" at the beginning of a path.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE_SIZE = 64
FEATURES = 256
EMBEDDING = 64  # as in the paper
HIDDEN = 256  # the paper's 512 is for 80 labels and more
MAX_LABELS = 5
BEAM_WIDTH = 8


class Encoder(nn.Sequential):
    """The CNN that every multi-label network here begins with: pixels [batch, 64, 64] to features [batch, 256]."""

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, IMAGE_SIZE)),  # [batch, 1, 64, 64]
            nn.Conv2d(1, 24, 5, stride=2, padding=2), nn.ReLU(),  # [batch, 24, 32, 32]
            nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.ReLU(),  # [batch, 48, 16, 16]
            nn.Conv2d(48, 64, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),  # [batch, 64, 8, 8]
            # What is in the picture counts, and not where: each of 192 detectors says only how sure it is anywhere.
            nn.Conv2d(64, 192, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(8), nn.Flatten(),  # [batch, 192]
            nn.Linear(192, FEATURES), nn.ReLU(), nn.Dropout(0.2),  # [batch, 256]
        )  # fmt: skip


class CnnRnn(nn.Module):
    """The CNN, the label embeddings, the LSTM over the labels so far, and the joint space in which they meet."""

    def __init__(self, labels: int = 10) -> None:
        super().__init__()
        self.labels = labels
        self.encoder = Encoder()
        self.embeddings = nn.Embedding(labels + 1, EMBEDDING)  # U_l, and the mark's
        # PyTorch's standard deviation of 1 makes the first scores so sure that the image is learned late, or never.
        nn.init.normal_(self.embeddings.weight, std=0.1)
        self.lstm = nn.LSTMCell(EMBEDDING, HIDDEN)
        self.project_image = nn.Linear(FEATURES, EMBEDDING)  # U_I
        self.project_output = nn.Linear(HIDDEN, EMBEDDING, bias=False)  # U_o
        self.bias = nn.Parameter(torch.zeros(labels + 1))  # of the scores: how common a label is

    def forward(self, pixels: Tensor, path: Tensor) -> Tensor:
        """Logits [batch, steps, labels + 1] of what comes after each label of path [batch, steps], which begins with
        the mark."""
        image = self.project_image(self.encoder(pixels))  # [batch, 64]
        state = self.begin(pixels.shape[0], image)
        steps = []
        for label in path.unbind(dim=1):
            logits, state = self.step(image, label, state)
            steps.append(logits)
        return torch.stack(steps, dim=1)

    def begin(self, batch: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The LSTM's state before anything was read: r(0), [batch, 256] each."""
        return like.new_zeros(batch, HIDDEN), like.new_zeros(batch, HIDDEN)

    def step(self, image: Tensor, label: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read one label [batch] after those that made the state: logits [batch, labels + 1] and the new state."""
        output, cell = self.lstm(self.embeddings(label), state)  # w_k(t), o(t), r(t): equations 1 and 2
        joint = functional.relu(self.project_output(output) + image)  # x_t: equation 3
        logits: Tensor = joint @ self.embeddings.weight.T + self.bias  # s(t): equation 4
        return logits, (output, cell)


class Beam(NamedTuple):
    """The likeliest path of each image, and what all paths that were kept say together."""

    path: Tensor
    """Labels in the order predicted, INT64 [batch, MAX_LABELS]; -1 after the last."""
    path_probability: Tensor
    """P(path | image), [batch]."""
    probabilities: Tensor
    """Of each label, [batch, labels]: the share of the kept paths' probability that lies in paths with this label."""


def beam_search(network: CnnRnn, pixels: Tensor, width: int = BEAM_WIDTH) -> Beam:
    """The best paths of at most MAX_LABELS labels, none of them twice, keeping ``width`` of them at every step.

    Unrolled over a fixed number of steps, without a branch that depends on the data, so that the whole search becomes
    part of one ONNX graph. A path that has ended stays in the beam, at the probability that it ended with, until
    ``width`` others are likelier.
    """
    batch, symbols, mark = pixels.shape[0], network.labels + 1, network.labels  # len() would freeze the axis
    image = network.project_image(network.encoder(pixels)).repeat_interleave(width, dim=0)  # [batch * width, 64]
    state = network.begin(batch * width, image)
    every = torch.arange(symbols, device=pixels.device)
    last = torch.full((batch, width), mark, device=pixels.device)
    path = torch.full((batch, width, MAX_LABELS), -1, device=pixels.device)
    used = torch.zeros(batch, width, symbols, dtype=torch.bool, device=pixels.device)
    ended = torch.zeros(batch, width, dtype=torch.bool, device=pixels.device)
    # All beams begin alike: only the first counts, or the same path would be kept ``width`` times.
    score = torch.zeros(batch, width, device=pixels.device)
    score = score + torch.where(torch.arange(width, device=pixels.device) == 0, 0.0, -torch.inf)
    for position in range(MAX_LABELS + 1):
        logits, (output, cell) = network.step(image, last.reshape(-1), state)
        gain = functional.log_softmax(logits.float(), dim=1).reshape(batch, width, symbols)
        gain = gain.masked_fill(used, -torch.inf)
        if position == MAX_LABELS:  # nothing but the end is left
            gain = torch.where(every == mark, gain, -torch.inf)
        stays = torch.where(every == mark, 0.0, -torch.inf)  # of a path that ended: as it is, once
        gain = torch.where(ended[:, :, None], stays, gain)
        score, chosen = (score[:, :, None] + gain).reshape(batch, width * symbols).topk(width)  # [batch, width]
        parent, last = chosen // symbols, chosen % symbols

        def follow(values: Tensor, parent: Tensor = parent) -> Tensor:
            index = parent.reshape(batch, width, *[1] * (values.ndim - 2)).expand_as(values)
            return values.gather(1, index)

        path, used, ended = follow(path), follow(used), follow(ended)
        output, cell = (follow(part.reshape(batch, width, -1)).reshape(batch * width, -1) for part in (output, cell))
        state = output, cell
        if position < MAX_LABELS:
            path = torch.where(
                torch.arange(MAX_LABELS, device=pixels.device) == position,
                torch.where(last == mark, -1, last)[:, :, None],
                path,
            )
        used = used | ((every == last[:, :, None]) & (every != mark))
        ended = ended | (last == mark)
    weight = functional.softmax(score, dim=1)  # [batch, width]
    probabilities = (used[:, :, :mark] * weight[:, :, None]).sum(dim=1)
    return Beam(path[:, 0], score[:, 0].exp(), probabilities)
