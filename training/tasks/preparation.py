"""A fresh network, made ready for the training steps that its recipe asks for."""

import torch
from torch import nn

from hangtag.training.networks.batch_norm import add_batch_norm
from hangtag.training.recipes import Recipe


def prepare(network: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
    """The network on the device, with the recipe's dropout rates and batch normalisation. It is changed in place."""
    if recipe.dropout is not None:
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = recipe.dropout
    if recipe.batch_norm:
        add_batch_norm(network)
    # channels_last is how convolutions are fastest on CPUs and GPUs alike; the numbers stay the same.
    moved: nn.Module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved
