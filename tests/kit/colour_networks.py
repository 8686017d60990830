"""Pictures of one colour each, and a small PyTorch network that recognizes the colour, exported without hangtag."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from PIL import Image

from tests.kit.onnx_models import from_text

COLOURS = ("red", "green", "blue")
SIZE = 24
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PREPROCESSING = f"size={SIZE}x{SIZE} fit=crop scale=255 mean=0.4,0.5,0.6 std=0.2,0.25,0.3"


def export(file: Path) -> None:
    """Export the network with torch.onnx.export: FP32 [batch, 3, 24, 24] -> logits. The axes have PyTorch's names."""
    import torch
    from torch import nn

    first, last = nn.Conv2d(3, 3, 1), nn.Linear(3, 3)
    with torch.no_grad():
        first.weight.copy_(torch.diag(torch.tensor(STD))[:, :, None, None])
        assert first.bias is not None
        first.bias.copy_(torch.tensor(MEAN))
        last.weight.copy_(20 * torch.eye(3))
        last.bias.copy_(torch.tensor([0.5, 0.0, -0.5]))
    network = nn.Sequential(first, nn.ReLU(), nn.AvgPool2d(SIZE), nn.Flatten(), last).eval()
    pixels = torch.rand(2, 3, SIZE, SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ignore the warnings of PyTorch and onnxscript
        torch.onnx.export(
            network,
            (pixels,),
            file,
            dynamo=True,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )


def in_text(
    taken: str = f"float[batch, 3, {SIZE}, {SIZE}]",
    answered: str = "float[batch, 3]",
    first: str = "pixels = Identity(image)",
    last: str = "logits = Identity(scores)",
    axes: str = "{2, 3}",
) -> onnx.ModelProto:
    """Build a network from text, without PyTorch. Its output ``logits`` is ten times each channel's mean of ``image``.

    Args:
        taken: The type and shape of the input ``image``.
        answered: The type and shape of the output ``logits``.
        first: Nodes that compute FP32 ``pixels`` from ``image``.
        last: Nodes that compute ``logits`` from ``scores``.
        axes: The indices of the height and width axes.
    """
    return from_text(
        f"""({taken} image) => ({answered} logits) <int64[2] axes = {axes}, float ten = {{10}}> {{
            {first}
            means = ReduceMean <keepdims = 0> (pixels, axes)
            scores = Mul(means, ten)
            {last}
        }}"""
    )


def pictures(folder: Path, count: int = 20) -> Path:
    """Write pictures of several sizes into a folder for each colour, and return the parent folder."""
    random = np.random.default_rng(0)
    for channel, colour in enumerate(COLOURS):
        (folder / colour).mkdir(parents=True)
        for place in range(count):
            Image.fromarray(picture(random, channel, 30 + place, 50)).save(folder / colour / f"{place}.png")
    return folder


def picture(random: np.random.Generator, channel: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """A picture of noise in which one channel is stronger."""
    pixels = random.integers(0, 160, (height, width, 3), dtype=np.uint8)
    pixels[:, :, channel] += 90
    return pixels
