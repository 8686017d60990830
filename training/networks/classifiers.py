"""The networks for one label per image: the study's three networks, a small network to serve, and teachers.

A network maps the pixels that ``normalise`` returns, FP32 [batch, channels, height, width], to logits [batch, labels].
The sizes in comments are for Fashion-MNIST's 28x28 grey pixels.

Weights start as in Keras, which the study used: Glorot-uniform kernels, orthogonal recurrent kernels, zero biases, and
1 for the bias of an LSTM's forget gate. PyTorch's nn.LSTM has two bias vectors, and Keras' LSTM has one, so the LSTMs
have a few more parameters than in the study.
"""

import math

import torch
from torch import Tensor, nn

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.errors import SettingsError

STUDY_HIDDEN_SIZE = 186  # floor(2 * 28 * 10 / 3)
_LEAST_EDGE = 8  # pixels; three pooling layers halve each edge, so a shorter edge would become 0


class Lstm(nn.Module):
    """Reads an image row by row, 28 time steps of 28 pixels, and classifies the LSTM's last hidden state."""

    def __init__(self, labels: int, image: ImageSpec, *, hidden_size: int = STUDY_HIDDEN_SIZE) -> None:
        super().__init__()
        self.lstm = nn.LSTM(image.width * image.channels, hidden_size, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(hidden_size, labels)
        self.apply(_initialise_like_keras)

    def forward(self, pixels: Tensor) -> Tensor:
        outputs, _ = self.lstm(_rows(pixels))  # [batch, 28, hidden]
        logits: Tensor = self.classifier(self.dropout(outputs[:, -1]))  # [batch, 10]
        return logits


class Lstm2(nn.Module):
    """Two LSTMs. The second LSTM reads the 28 hidden states of the first, and its last hidden state is classified."""

    def __init__(self, labels: int, image: ImageSpec, *, hidden_size: int = STUDY_HIDDEN_SIZE) -> None:
        super().__init__()
        self.lstm1 = nn.LSTM(image.width * image.channels, 784, batch_first=True)
        self.lstm2 = nn.LSTM(784, hidden_size, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(hidden_size, labels)
        self.apply(_initialise_like_keras)

    def forward(self, pixels: Tensor) -> Tensor:
        sequence, _ = self.lstm1(_rows(pixels))  # [batch, 28, 784]
        outputs, _ = self.lstm2(self.dropout(sequence))  # [batch, 28, 186]
        logits: Tensor = self.classifier(self.dropout(outputs[:, -1]))  # [batch, 10]
        return logits


def _rows(pixels: Tensor) -> Tensor:
    """Return pixels [batch, channels, height, width] as a sequence of rows, [batch, height, width * channels]."""
    return pixels.squeeze(1) if pixels.shape[1] == 1 else pixels.permute(0, 2, 3, 1).flatten(2)


class Cnn(nn.Sequential):
    """Five convolutions in three stages that each halve the image, then three dense layers.

    If an edge of the image has more than 71 pixels, the last maps are pooled once more, so that the first dense layer
    does not grow. max(relu(x)) == relu(max(x)), so ReLU and pooling commute. After pooling, ReLU processes a quarter of
    the values.
    """

    def __init__(self, labels: int, image: ImageSpec) -> None:
        super().__init__()
        pool, places = _pooling(*_halved_thrice(image), most=8)
        self.features = nn.Sequential(
            nn.Conv2d(image.channels, 64, 7, padding="same"), nn.MaxPool2d(2), nn.ReLU(),  # [batch, 64, 14, 14]
            nn.Conv2d(64, 128, 3, padding="same"), nn.ReLU(),
            nn.Conv2d(128, 128, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU(),  # [batch, 128, 7, 7]
            nn.Conv2d(128, 256, 3, padding="same"), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU(),  # [batch, 256, 3, 3]
            *pool, nn.Flatten(),  # [batch, 2304]
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Linear(256 * places, 128), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(64, labels),  # [batch, 10]
        )  # fmt: skip
        self.apply(_initialise_like_keras)


class CnnSmall(nn.Sequential):
    """A network for fast serving: five convolutions, three of which halve the image by their stride, then two dense
    layers.

    For an image, CnnSmall does a twentieth of Cnn's multiplications, and somewhat fewer than Lstm does. If an edge of
    the image has more than 32 pixels, the last feature maps are pooled, so that the first dense layer does not grow.
    """

    def __init__(self, labels: int, image: ImageSpec) -> None:
        super().__init__()
        pool, places = _pooling(math.ceil(image.height / 8), math.ceil(image.width / 8), most=4)
        self.features = nn.Sequential(
            nn.Conv2d(image.channels, 16, 3, padding=1), nn.ReLU(),  # [batch, 16, 28, 28]
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),  # [batch, 32, 14, 14]
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),  # [batch, 64, 7, 7]
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
            nn.Conv2d(64, 48, 3, stride=2, padding=1), nn.ReLU(),  # [batch, 48, 4, 4]
            *pool, nn.Flatten(),  # [batch, 768]
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Linear(48 * places, 64), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(64, labels),  # [batch, 10]
        )  # fmt: skip
        self.apply(_initialise_like_keras)


class _Residual(nn.Module):
    """A residual block adds two convolutions of its input to the input (He et al., Deep Residual Learning, 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding="same"), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding="same"), nn.ReLU(),
        )  # fmt: skip

    def forward(self, maps: Tensor) -> Tensor:
        output: Tensor = maps + self.change(maps)
        return output


class ResNet(nn.Sequential):
    """A residual network of three stages, the teacher of the study's networks. hangtag ships no ResNet.

    The first stage sees the image at half its size or, with ``full_resolution``, at its full size. Every later stage
    halves the size once more. The full resolution needs four times as many multiplications.
    """

    def __init__(self, labels: int, image: ImageSpec, *, full_resolution: bool = False) -> None:
        super().__init__()
        _halved_thrice(image)
        channels = image.channels
        stem = (
            [nn.Conv2d(channels, 64, 3, padding="same")] if full_resolution else [
                nn.Conv2d(channels, 32, 5, padding="same"), nn.MaxPool2d(2), nn.ReLU(),
                nn.Conv2d(32, 64, 3, padding="same"),
            ]
        )  # fmt: skip
        self.features = nn.Sequential(
            *stem, nn.ReLU(), _Residual(64),  # [batch, 64, size, size], where size is 14, or 28 in full resolution
            nn.Conv2d(64, 128, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU(), _Residual(128),  # size // 2
            nn.Conv2d(128, 256, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU(), _Residual(256),  # size // 4
            nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.3),  # [batch, 256]
        )  # fmt: skip
        self.classifier = nn.Linear(256, labels)
        self.apply(_initialise_like_keras)


def _pooling(height: int, width: int, most: int) -> tuple[list[nn.Module], int]:
    """Return the pooling layers that reduce a feature map to at most ``most`` positions in height and in width, and the
    number of positions in the reduced map."""
    pooled = (math.ceil(height / most), math.ceil(width / most))
    return [] if pooled == (1, 1) else [nn.MaxPool2d(pooled)], (height // pooled[0]) * (width // pooled[1])


def _halved_thrice(image: ImageSpec) -> tuple[int, int]:
    """Return height and width after three poolings. Raises SettingsError if the image is too small for the poolings."""
    if min(image.height, image.width) < _LEAST_EDGE:
        raise SettingsError(
            f"the images have {image.height} x {image.width} pixels, but this network needs at least {_LEAST_EDGE} x "
            f"{_LEAST_EDGE}, because it halves them three times. Choose a larger --size, or train lstm."
        )
    return image.height // 8, image.width // 8


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
        # Keras initialises the bias of the forget gate to 1 too (unit_forget_bias)
        weights["bias_ih_l0"][module.hidden_size : 2 * module.hidden_size] = 1.0
