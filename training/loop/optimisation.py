"""Builds a recipe's optimizer, learning-rate schedule and moving average of the weights."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hangtag.training.loop.muon import LSTM_GATES, Muon, hidden_matrices
from hangtag.training.recipes import Recipe

_WARM_UP = 0.15  # of the steps, with one_cycle
_ADAMW_RATE = 0.25  # with muon: of the learning rate of Muon's matrices
_FIRST_RATE, _LAST_RATE = 0.04, 1e-3  # of the peak, with one_cycle


def optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over all parameters. Weight decay applies to matrices, not to vectors such as biases.

    The fused implementation passes over the parameters once, where the others pass a dozen times.
    """
    if recipe.optimizer == "muon":
        return Muon(muon_groups(network, recipe), recipe.betas, recipe.epsilon)
    groups = _by_decay(network.parameters(), recipe)
    if recipe.optimizer == "sgd":
        return SGD(groups, lr=recipe.learning_rate, momentum=recipe.betas[0], nesterov=True, fused=True)
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    return kind(groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon, fused=True)


def muon_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Muon's groups, the matrices that map to hidden units, at the recipe's rate; AdamW's groups at a part of it."""
    stacked, single = hidden_matrices(network)
    chosen = {id(weights) for weights in (*stacked, *single)}
    rest = [weights for weights in network.parameters() if id(weights) not in chosen]
    muon = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    adamw = {"lr": recipe.learning_rate * _ADAMW_RATE, "matrices": 0}
    return [
        {"params": stacked, "matrices": LSTM_GATES, **muon},
        {"params": single, "matrices": 1, **muon},
        *(group | adamw for group in _by_decay(rest, recipe)),
    ]


def _by_decay(parameters: Iterable[nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    """Two groups: matrices, with weight decay, and vectors, without."""
    all_parameters = list(parameters)
    return [
        {"params": [weights for weights in all_parameters if weights.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [weights for weights in all_parameters if weights.ndim <= 1], "weight_decay": 0.0},
    ]


def scheduler(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler | None:
    """The recipe's schedule, whose step() follows every training step; None for a constant rate."""
    if recipe.schedule == "constant":
        return None
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=recipe.epochs * steps_per_epoch,
        pct_start=_WARM_UP,
        div_factor=1 / _FIRST_RATE,
        final_div_factor=_FIRST_RATE / _LAST_RATE,
        cycle_momentum=False,
    )


def average(network: nn.Module, recipe: Recipe) -> AveragedModel | None:
    """The recipe's exponential moving average of weights and normalisation statistics; None if it has none."""
    if not recipe.ema_decay:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
