"""Normalises pixels (the only preprocessing) and the outputs of layers (batch normalisation). After training, each
batch normalisation is folded into the weights of the layer before it."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from hangtag.serving.image_spec import ImageSpec

_MOMENTUM = 0.1  # PyTorch's default: the weight of a step's statistics in the running statistics


def normalise(images: Tensor, image: ImageSpec) -> Tensor:
    """Normalise images [batch, height, width] or [batch, height, width, 3], with pixels from 0 to 255. Return
    (pixel / 255 - mean) / std, FP32 [batch, channels, height, width]."""
    pixels = images.to(torch.float32) / 255
    pixels = pixels.unsqueeze(1) if image.channels == 1 else pixels.permute(0, 3, 1, 2)
    if any(image.mean) or any(each != 1 for each in image.std):
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (image.mean, image.std))
        pixels = (pixels - mean) / std
    return pixels


class Normalised(nn.Sequential):
    """A layer and the normalisation of its outputs."""


def add_batch_norm(network: nn.Module, steps_per_epoch: int) -> None:
    """Add a normalisation to the network after each convolution and dense layer except for the last."""
    # A network is validated with running statistics: an average over roughly the last ten steps, or over one epoch if
    # it has fewer steps. Otherwise the initial values would still dominate.
    momentum = max(_MOMENTUM, 1 / steps_per_epoch)
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for name, layer in layers[:-1]:
        norm = (
            nn.BatchNorm2d(layer.out_channels, momentum=momentum)
            if isinstance(layer, nn.Conv2d)
            else nn.BatchNorm1d(layer.out_features, momentum=momentum)
        )
        network.set_submodule(name, Normalised(layer, norm))


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, with each normalisation folded into the layer before it. Its state_dict has the
    keys of a network without normalisation."""
    folded = copy.deepcopy(network).eval()
    for name, pair in [(name, pair) for name, pair in folded.named_modules() if isinstance(pair, Normalised)]:
        layer, norm = pair
        fuse = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
        folded.set_submodule(name, fuse(layer, norm))  # type: ignore[type-var, arg-type]
    return folded
