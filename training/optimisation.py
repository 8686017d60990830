"""What a recipe says about changing the weights, as PyTorch's optimizers, schedules and weight averages."""

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.muon import Muon, groups
from training.recipes import Recipe

_WARM_UP = 0.15  # of the steps, with one_cycle
_FIRST_RATE, _LAST_RATE = 0.04, 1e-3  # of the highest, with one_cycle


def optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over all parameters. Weights decay; biases and normalisations, being vectors, do not.

    It is the fused one: a single pass over the parameters, where the others make a dozen.
    """
    if recipe.optimizer == "muon":
        return Muon(groups(network, recipe.learning_rate, recipe.weight_decay), recipe.betas, recipe.epsilon)
    parameters = list(network.parameters())
    by_shape = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return SGD(by_shape, lr=recipe.learning_rate, momentum=recipe.betas[0], nesterov=True, fused=True)
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    return kind(by_shape, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon, fused=True)


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
