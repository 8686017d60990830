"""The networks for one label per image, layer by layer: the study's three, and their teachers.

Each maps pixels in [0, 1], [batch, 28, 28], to logits [batch, classes].

Weights start as in Keras, which the study used: Glorot-uniform kernels, orthogonal recurrent kernels, zero biases, and
1 for an LSTM's forget gate. PyTorch's nn.LSTM has two bias vectors where Keras has one, so there are a few more
parameters than in the study.
"""

import torch
from torch import Tensor, nn

CLASSES = 10
STUDY_HIDDEN_SIZE = 186  # floor(2 * 28 * 10 / 3)


class Lstm(nn.Module):
    """Reads an image row by row, 28 time steps of 28 pixels, and classifies the LSTM's last hidden state."""

    def __init__(self, classes: int = CLASSES, *, hidden_size: int = STUDY_HIDDEN_SIZE) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, hidden_size, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(hidden_size, classes)
        self.apply(_initialise_like_keras)

    def forward(self, pixels: Tensor) -> Tensor:
        outputs, _ = self.lstm(pixels)  # [batch, 28, hidden]
        logits: Tensor = self.classifier(self.dropout(outputs[:, -1]))  # [batch, 10]
        return logits


class Lstm2(nn.Module):
    """Two LSTMs: the second reads the first's 28 hidden states of 784 units, and its last state is classified."""

    def __init__(self, classes: int = CLASSES, *, hidden_size: int = STUDY_HIDDEN_SIZE) -> None:
        super().__init__()
        self.lstm1 = nn.LSTM(28, 784, batch_first=True)
        self.lstm2 = nn.LSTM(784, hidden_size, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(hidden_size, classes)
        self.apply(_initialise_like_keras)

    def forward(self, pixels: Tensor) -> Tensor:
        sequence, _ = self.lstm1(pixels)  # [batch, 28, 784]
        outputs, _ = self.lstm2(self.dropout(sequence))  # [batch, 28, 186]
        logits: Tensor = self.classifier(self.dropout(outputs[:, -1]))  # [batch, 10]
        return logits


class Cnn(nn.Module):
    """Five convolutions in three stages, each of which halves the image, then three dense layers.

    max(relu(x)) == relu(max(x)), so ReLU and pooling commute: ReLU after pooling does a quarter of the work.
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 64, 7, padding="same"), nn.MaxPool2d(2), nn.ReLU(),  # [batch, 64, 14, 14]
            nn.Conv2d(64, 128, 3, padding="same"), nn.ReLU(),
            nn.Conv2d(128, 128, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU(),  # [batch, 128, 7, 7]
            nn.Conv2d(128, 256, 3, padding="same"), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU(),  # [batch, 256, 3, 3]
            nn.Flatten(),  # [batch, 2304]
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Linear(2304, 128), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(64, classes),  # [batch, 10]
        )  # fmt: skip
        self.apply(_initialise_like_keras)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(pixels.unsqueeze(1)))
        return logits


class _Residual(nn.Module):
    """A residual block: its input plus two convolutions of it (He et al., Deep Residual Learning, 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding="same"), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding="same"), nn.ReLU(),
        )  # fmt: skip

    def forward(self, maps: Tensor) -> Tensor:
        output: Tensor = maps + self.change(maps)
        return output


class ResNet(nn.Module):
    """A residual network of three stages, from which the study's networks learn. It is not shipped.

    Its first stage sees the image at half its size or, with ``full_resolution``, pixel by pixel; every later stage
    halves the size once more. The full resolution takes four times as many multiplications.
    """

    def __init__(self, classes: int = CLASSES, *, full_resolution: bool = False) -> None:
        super().__init__()
        stem = (
            [nn.Conv2d(1, 64, 3, padding="same")]
            if full_resolution
            else [nn.Conv2d(1, 32, 5, padding="same"), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 3, padding="same")]
        )
        self.features = nn.Sequential(
            *stem, nn.ReLU(), _Residual(64),  # [batch, 64, size, size], where size is 14, or 28 in full resolution
            nn.Conv2d(64, 128, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU(), _Residual(128),  # size // 2
            nn.Conv2d(128, 256, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU(), _Residual(256),  # size // 4
            nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.3),  # [batch, 256]
        )  # fmt: skip
        self.classifier = nn.Linear(256, classes)
        self.apply(_initialise_like_keras)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(pixels.unsqueeze(1)))  # [batch, 10]
        return logits


def parameter_count(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@torch.no_grad()
def _initialise_like_keras(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LSTM):
        weights = dict(module.named_parameters())
        nn.init.xavier_uniform_(weights["weight_ih_l0"])  # [4 * hidden, input], gates in the order i, f, g, o
        nn.init.orthogonal_(weights["weight_hh_l0"])  # [4 * hidden, hidden]
        nn.init.zeros_(weights["bias_ih_l0"])
        nn.init.zeros_(weights["bias_hh_l0"])
        weights["bias_ih_l0"][module.hidden_size : 2 * module.hidden_size] = 1.0  # Keras: unit_forget_bias
