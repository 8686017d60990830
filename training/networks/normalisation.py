"""Normalisation: of the pixels, which is the only preprocessing, and of a layer's outputs during training.

Batch normalisation is added after every convolution and every dense layer but the last, and folded into that layer's
weights after training: the deployed network has exactly the layers and parameters of its class.
"""

import copy
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from hangtag.serving.image_spec import ImageSpec

_MOMENTUM = 0.1  # PyTorch's default: the weight of a step's statistics in the running ones


def normalise(images: Tensor, image: ImageSpec) -> Tensor:
    """Images [batch, height, width] or [batch, height, width, 3], 0 to 255, to FP32 [batch, channels, height, width].

    Pixels become (pixel / 255 - mean) / std.
    """
    pixels = images.to(torch.float32) / 255
    pixels = pixels.unsqueeze(1) if image.channels == 1 else pixels.permute(0, 3, 1, 2)
    if any(image.mean) or any(each != 1 for each in image.std):
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (image.mean, image.std))
        pixels = (pixels - mean) / std
    return pixels


class Normalised(nn.Sequential):
    """A layer and the normalisation of its outputs."""


def add_batch_norm(network: nn.Module, steps_per_epoch: int) -> None:
    """Add a normalisation after each convolution and dense layer but the last, in place.

    A network is validated with running statistics, which follow the last ten steps or so. In an epoch of fewer steps
    they follow the epoch's steps; otherwise they would still consist of their initial values.
    """
    momentum = max(_MOMENTUM, 1 / steps_per_epoch)
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for name, layer in layers[:-1]:
        norm = (
            nn.BatchNorm2d(layer.out_channels, momentum=momentum)
            if isinstance(layer, nn.Conv2d)
            else nn.BatchNorm1d(layer.out_features, momentum=momentum)
        )
        _replace(network, name, Normalised(layer, norm))


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode with all normalisations folded in: its state_dict has the plain network's keys."""
    folded = copy.deepcopy(network).eval()
    for name, pair in [(name, pair) for name, pair in folded.named_modules() if isinstance(pair, Normalised)]:
        layer, norm = pair
        fuse = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
        _replace(folded, name, fuse(layer, norm))  # type: ignore[type-var, arg-type]
    return folded


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    *path, last = name.split(".")
    setattr(reduce(getattr, path, network), last, layer)
