"""A network as a user might bring it: plain PyTorch that does not depend on hangtag."""

from torch import Tensor, nn

from hangtag.serving.image_spec import ImageSpec


class Block(nn.Module):
    """Two convolutions with a shortcut around them. The block halves the picture's sides."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2)

    def forward(self, pixels: Tensor) -> Tensor:
        halved: Tensor = self.body(pixels) + self.shortcut(pixels)
        return halved.relu()


def build(labels: int, image: ImageSpec) -> nn.Module:
    """A small residual network: pixels, FP32 [batch, channels, height, width] -> logits, FP32 [batch, labels].

    Args:
        labels: The number of labels.
        image: The pictures that the network takes.
    """
    return nn.Sequential(
        Block(image.channels, 32),
        Block(32, 64),
        Block(64, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, labels),
    )
