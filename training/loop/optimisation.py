"""Builds a recipe's optimizer, learning-rate schedule and moving average of the weights. Muon is implemented here.

Muon averages the gradients of a weight matrix, and updates the matrix by the orthogonal matrix nearest to the average
(Jordan et al., 2024). The average of the gradients has few large singular values and many small ones. All singular
values of an orthogonal matrix are 1, so the network learns equally in all directions, and needs fewer epochs.

torch.optim.Muon treats a parameter as one matrix. In this module a parameter may stack several matrices: an LSTM's
weights stack the weights of four gates, and each gate's weights are orthogonalised separately. A convolution's weights
are one matrix, [out, in * h * w].
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hangtag.training.recipes import Recipe

_WARM_UP = 0.15  # one_cycle raises the learning rate during this share of the steps
_ADAMW_RATE = 0.25  # AdamW's learning rate, as a share of Muon's learning rate
_FIRST_RATE, _LAST_RATE = 0.04, 1e-3  # one_cycle's first and last learning rate, as shares of the highest
_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315  # Jordan's coefficients bring all singular values near 1 in few steps
_MOMENTUM = 0.95
# The entries of an orthogonal matrix are 1 / sqrt(larger side) on average. An update that is scaled by _UPDATE_SIZE *
# sqrt(larger side) is as large as Adam's, for every shape (Liu et al., Muon is Scalable for LLM Training, 2025).
_UPDATE_SIZE = 0.2
_LSTM_GATES = 4  # input, forget, cell, output


class Muon(AdamW):
    """Updates parameter groups with Muon, or with AdamW if "matrices", the number of stacked matrices, is 0."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters. Sets the gradients of Muon's parameters to None."""
        for group in self.param_groups:
            if not group["matrices"]:
                continue
            for weights in group["params"]:
                if weights.grad is not None:
                    update = self._update(weights, weights.grad, group["matrices"])
                    weights.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                    weights.grad = None  # so that AdamW skips these weights
        outcome: float | None = super().step(closure)
        return outcome

    def _update(self, weights: Tensor, gradient: Tensor, matrices: int) -> Tensor:
        state = self.state[weights]
        if not state:
            state["momentum"] = torch.zeros_like(weights)
            # this optimizer does not use the step, but AdamW.load_state_dict expects a step
            state["step"] = torch.zeros(())
        average = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        nesterov = gradient.lerp(average, _MOMENTUM)
        stack = nesterov.reshape(matrices, len(weights) // matrices, -1)
        return _orthogonalise(stack).mul_(_UPDATE_SIZE * max(stack.shape[1:]) ** 0.5).reshape(weights.shape)


def _orthogonalise(stack: Tensor) -> Tensor:
    """Bring nearly all singular values of matrices [n, rows, columns] into the range from 0.7 to 1.2, by Newton-Schulz
    iterations, which tolerate the rounding of bfloat16."""
    matrices = stack.bfloat16()
    if tall := matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT  # fewer rows than columns, so that the products below are small
    matrices = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        square = matrices @ matrices.mT
        matrices = _A * matrices + (_B * square + _C * square @ square) @ matrices
    result: Tensor = matrices.mT if tall else matrices
    return result.to(stack.dtype)


def optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    """Return the recipe's optimizer for all parameters. In each step, the fused implementation reads the
    parameters once, and other implementations read them a dozen times."""
    if recipe.optimizer == "muon":
        return Muon(muon_groups(network, recipe), betas=recipe.betas, eps=recipe.epsilon, fused=True)
    groups = _by_decay(network.parameters(), recipe)
    if recipe.optimizer == "sgd":
        return SGD(groups, lr=recipe.learning_rate, momentum=recipe.betas[0], nesterov=True, fused=True)
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    return kind(groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon, fused=True)


def muon_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return Muon's parameter groups, with the recipe's learning rate, and AdamW's groups, with a share of that rate.
    Muon updates the matrices that map to hidden units. AdamW updates all other parameters, including the label
    embeddings and the last linear layer, whose rows are classes."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    stacked, single = [], []
    for module in network.modules():
        own = [weights for weights in module.parameters(recurse=False) if weights.ndim > 1]
        if isinstance(module, nn.LSTM | nn.LSTMCell):
            stacked += own
        elif isinstance(module, nn.Conv2d) or module in linear[:-1]:
            single += own
    chosen = {id(weights) for weights in (*stacked, *single)}
    rest = [weights for weights in network.parameters() if id(weights) not in chosen]
    muon = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    adamw = {"lr": recipe.learning_rate * _ADAMW_RATE, "matrices": 0}
    return [
        {"params": stacked, "matrices": _LSTM_GATES, **muon},
        {"params": single, "matrices": 1, **muon},
        *(group | adamw for group in _by_decay(rest, recipe)),
    ]


def _by_decay(parameters: Iterable[nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    """Return two groups of parameters: matrices, with weight decay, and vectors, such as biases, without it."""
    matrices, vectors = list[nn.Parameter](), list[nn.Parameter]()
    for weights in parameters:
        (matrices if weights.ndim > 1 else vectors).append(weights)
    return [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def scheduler(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler | None:
    """Return the schedule of the learning rate, whose step() follows every training step, or None if the rate is
    constant."""
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
    """Return the exponential moving average of weights and normalisation statistics, or None if the recipe has none."""
    if not recipe.ema_decay:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
