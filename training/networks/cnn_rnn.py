"""CNN-RNN for images with several labels (Wang et al., CVPR 2016), and its baselines.

The CNN is smaller than the paper's VGG-16, and computes the image's features once. The RNN predicts labels one after
another, as a path that ends with END. The embedding of a label is the input of the RNN, and also scores the output of
the RNN. The equation numbers in comments are from the paper.

Pixels are [batch, 1, 64, 64] in [0, 1]. Labels are the indices 0 to labels - 1. The next index, ``labels``, stands for
END, which is also the first input of every path.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hangtag.training.data.outfits import MAX_LABELS

FEATURES = 256
EMBEDDING = 64  # as in the paper
HIDDEN = 256  # 512 in the paper
BEAM_WIDTH = 8


class Encoder(nn.Sequential):
    """The CNN that all multi-label networks share. It maps pixels [batch, 1, 64, 64] to features [batch, 256]."""

    def __init__(self) -> None:
        super().__init__(
            # a placeholder that keeps the layers' numbers, which are part of the weights' names in earlier releases
            nn.Identity(),
            nn.Conv2d(1, 24, 5, stride=2, padding=2), nn.ReLU(),  # [batch, 24, 32, 32]
            nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.ReLU(),  # [batch, 48, 16, 16]
            nn.Conv2d(48, 64, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),  # [batch, 64, 8, 8]
            # Each of 192 detectors returns its maximum over all positions, so positions do not matter.
            nn.Conv2d(64, 192, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(8), nn.Flatten(),  # [batch, 192]
            nn.Linear(192, FEATURES), nn.ReLU(), nn.Dropout(0.2),  # [batch, 256]
        )  # fmt: skip


class CnnRnn(nn.Module):
    """CNN-RNN: the CNN, the label embeddings, the LSTM over the labels so far, and their joint space."""

    def __init__(self, labels: int = 10) -> None:
        super().__init__()
        self.labels = labels
        self.encoder = Encoder()
        self.embeddings = nn.Embedding(labels + 1, EMBEDDING)  # of the labels (U_l) and of END
        # With PyTorch's default standard deviation of 1, the first scores would be so confident that the network would
        # start to learn from the images late, or not at all.
        nn.init.normal_(self.embeddings.weight, std=0.1)
        self.lstm = nn.LSTMCell(EMBEDDING, HIDDEN)
        self.project_image = nn.Linear(FEATURES, EMBEDDING)  # U_I
        self.project_output = nn.Linear(HIDDEN, EMBEDDING, bias=False)  # U_o
        # this bias is added to the scores, and learns how frequent each label is
        self.bias = nn.Parameter(torch.zeros(labels + 1))

    def forward(self, pixels: Tensor, path: Tensor) -> Tensor:
        """Return the logits of the label that follows each label of ``path``, [batch, steps, labels + 1]. ``path``
        [batch, steps] begins with END."""
        image = self.project_image(self.encoder(pixels))  # [batch, 64]
        state = self.begin(pixels.shape[0], image)
        steps = []
        for label in path.unbind(dim=1):
            logits, state = self.step(image, label, state)
            steps.append(logits)
        return torch.stack(steps, dim=1)

    def begin(self, batch: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the LSTM's initial state: the output and r(0), which are zeros [batch, 256]."""
        return like.new_zeros(batch, HIDDEN), like.new_zeros(batch, HIDDEN)

    def step(self, image: Tensor, label: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Feed one label [batch] to the LSTM. Returns the next label's logits [batch, labels + 1], and the state."""
        output, cell = self.lstm(self.embeddings(label), state)  # w_k(t), o(t), r(t): equations 1 and 2
        joint = functional.relu(self.project_output(output) + image)  # x_t: equation 3
        logits: Tensor = joint @ self.embeddings.weight.T + self.bias  # s(t): equation 4
        return logits, (output, cell)


class CnnLabels(nn.Sequential):
    """A baseline without recurrence: the CNN and a dense layer, which gives every label an independent logit."""

    def __init__(self, labels: int) -> None:
        super().__init__(Encoder(), nn.Linear(FEATURES, labels))


class CnnEmbedding(nn.Module):
    """CNN-RNN without the RNN: the image is projected into the joint space and compared with the label embeddings."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.project_image = nn.Linear(FEATURES, EMBEDDING)  # U_I
        self.score = nn.Linear(EMBEDDING, labels)  # the rows of its weight are the label embeddings U_l

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.score(functional.relu(self.project_image(self.encoder(pixels))))
        return logits


class Beam(NamedTuple):
    """The most probable path of each image, and the labels' probabilities over all paths of the beam."""

    path: Tensor  # the labels in the order of prediction, INT64 [batch, MAX_LABELS]; entries after the last are -1
    path_probability: Tensor  # the probability of the path given the image, [batch]
    probabilities: Tensor  # for each label, the probability that a path of the beam contains it, [batch, labels]


def beam_search(network: CnnRnn, pixels: Tensor, width: int = BEAM_WIDTH) -> Beam:
    """Find the most probable paths of at most MAX_LABELS distinct labels, by a beam search of ``width`` paths.

    The network must be in evaluation mode. The loop is unrolled over a fixed number of steps and has no branch that
    depends on the data, so that the whole search becomes part of one ONNX graph. A path that has ended stays in the
    beam with its final probability, until ``width`` other paths are more probable.
    """
    # len() would make the batch size a constant of the exported graph
    batch, symbols, end = pixels.shape[0], network.labels + 1, network.labels
    image = network.project_image(network.encoder(pixels)).repeat_interleave(width, dim=0)  # [batch * width, 64]
    state = network.begin(batch * width, image)
    every = torch.arange(symbols, device=pixels.device)
    last = torch.full((batch, width), end, device=pixels.device)
    path = torch.full((batch, width, MAX_LABELS), -1, device=pixels.device)
    used = torch.zeros(batch, width, symbols, dtype=torch.bool, device=pixels.device)
    ended = torch.zeros(batch, width, dtype=torch.bool, device=pixels.device)
    # All paths of the beam are equal at the start. The scores of all but the first path are -inf, because otherwise the
    # beam would hold the same path ``width`` times.
    score = torch.zeros(batch, width, device=pixels.device)
    score = score + torch.where(torch.arange(width, device=pixels.device) == 0, 0.0, -torch.inf)
    for position in range(MAX_LABELS + 1):
        logits, (output, cell) = network.step(image, last.reshape(-1), state)
        gain = functional.log_softmax(logits.float(), dim=1).reshape(batch, width, symbols)
        gain = gain.masked_fill(used, -torch.inf)
        if position == MAX_LABELS:  # a path with MAX_LABELS labels can only end
            gain = torch.where(every == end, gain, -torch.inf)
        stays = torch.where(every == end, 0.0, -torch.inf)  # an ended path is kept as it is
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
                torch.where(last == end, -1, last)[:, :, None],
                path,
            )
        used = used | ((every == last[:, :, None]) & (every != end))
        ended = ended | (last == end)
    weight = functional.softmax(score, dim=1)  # [batch, width]
    probabilities = (used[:, :, :end] * weight[:, :, None]).sum(dim=1)
    return Beam(path[:, 0], score[:, 0].exp(), probabilities)
