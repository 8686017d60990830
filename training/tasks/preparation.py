"""Prepares a fresh network for training as its recipe requires."""

import torch
from torch import nn

from hangtag.training.networks.batch_norm import add_batch_norm
from hangtag.training.recipes import Recipe


def prepare(network: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
    """Set the recipe's dropout rates, add its batch normalisation, and move the network to the device, all in place."""
    if recipe.dropout is not None:
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = recipe.dropout
    if recipe.batch_norm:
        add_batch_norm(network)
    # Convolutions are fastest in channels_last on CPUs and GPUs alike; the results are the same.
    moved: nn.Module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved
