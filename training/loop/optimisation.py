"""What a recipe says about changing the weights, as PyTorch's optimizers, schedules and weight averages."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hangtag.training.loop.muon import GATES, Muon, matrices
from hangtag.training.recipes import Recipe

_WARM_UP = 0.15  # of the steps, with one_cycle
_MUONS_OTHERS_RATE = 0.25  # of the rate of Muon's matrices
_FIRST_RATE, _LAST_RATE = 0.04, 1e-3  # of the highest, with one_cycle


def optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over all parameters. Weights decay; biases and normalisations, being vectors, do not.

    It is the fused one: a single pass over the parameters, where the others make a dozen.
    """
    if recipe.optimizer == "muon":
        return Muon(muon_groups(network, recipe), recipe.betas, recipe.epsilon)
    groups = _by_decay(network.parameters(), recipe)
    if recipe.optimizer == "sgd":
        return SGD(groups, lr=recipe.learning_rate, momentum=recipe.betas[0], nesterov=True, fused=True)
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    return kind(groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon, fused=True)


def muon_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """What maps to hidden units is Muon's, at the recipe's rate; AdamW has the rest, at a part of it."""
    stacked, single = matrices(network)
    chosen = {id(weights) for weights in (*stacked, *single)}
    rest = [weights for weights in network.parameters() if id(weights) not in chosen]
    muons, others = {"lr": recipe.learning_rate}, {"lr": recipe.learning_rate * _MUONS_OTHERS_RATE, "matrices": 0}
    return [
        {"params": stacked, "matrices": GATES, "weight_decay": recipe.weight_decay, **muons},
        {"params": single, "matrices": 1, "weight_decay": recipe.weight_decay, **muons},
        *(group | others for group in _by_decay(rest, recipe)),
    ]


def _by_decay(parameters: Iterable[nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    """Two groups: what decays, and vectors, which do not."""
    every = list(parameters)
    return [
        {"params": [weights for weights in every if weights.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [weights for weights in every if weights.ndim <= 1], "weight_decay": 0.0},
    ]


def scheduler(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler | None:
    """The recipe's schedule, to be advanced after every step; None for a constant rate."""
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
    """The recipe's exponential moving average of weights and normalisation statistics; None where it keeps none."""
    if not recipe.ema_decay:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)  # type: ignore[no-untyped-call]
