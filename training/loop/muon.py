"""The Muon optimizer: updates a matrix by the orthogonal matrix nearest to its averaged gradient (Jordan et al., 2024).

A gradient has few large singular values and many small ones, and a learning rate per weight, as Adam's, does not change
that. In an orthogonal matrix all singular values are 1, so a network learns all directions in a fraction of the epochs.

torch.optim.Muon treats a parameter as one matrix. Here a parameter may stack several: an LSTM's weights stack those of
its four gates, and each gate is orthogonalised separately. A convolution's weights are one matrix, [out, in * h * w].
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315  # Jordan's coefficients bring all singular values near 1 in few steps
_MOMENTUM = 0.95
# The entries of an orthogonal matrix are 1 / sqrt(its larger side) on average. Scaled by this times sqrt(larger side),
# an update is as large as Adam's, whatever the shape (Liu et al., Muon is Scalable for LLM Training, 2025).
_UPDATE_SIZE = 0.2
LSTM_GATES = 4  # input, forget, cell, output


class Muon(AdamW):
    """Muon for parameter groups whose "matrices" is at least 1, AdamW for those where it is 0."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> None:
        """A group has params, lr, weight_decay, and matrices: how many matrices each parameter stacks."""
        super().__init__(groups, betas=betas, eps=eps, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters. The gradients of Muon's are set to None."""
        for group in self.param_groups:
            if not group["matrices"]:
                continue
            for weights in group["params"]:
                if weights.grad is not None:
                    update = self._update(weights, weights.grad, group["matrices"])
                    weights.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                    weights.grad = None  # so that AdamW skips it
        outcome: float | None = super().step(closure)
        return outcome

    def _update(self, weights: Tensor, gradient: Tensor, matrices: int) -> Tensor:
        state = self.state[weights]
        if not state:
            state["momentum"] = torch.zeros_like(weights)
            state["step"] = torch.zeros(())  # unused here, but AdamW.load_state_dict expects it
        average = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        nesterov = gradient.lerp(average, _MOMENTUM)
        stack = nesterov.reshape(matrices, len(weights) // matrices, -1)
        return orthogonalise(stack).mul_(_UPDATE_SIZE * max(stack.shape[1:]) ** 0.5).reshape(weights.shape)


def orthogonalise(stack: Tensor) -> Tensor:
    """Matrices [n, rows, columns] with nearly all singular values between 0.7 and 1.2, by Newton-Schulz iterations.

    They run in bfloat16, since the iterations tolerate its rounding.
    """
    matrices = stack.bfloat16()
    if tall := matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT  # the smaller side first, so that the squares below are small
    matrices = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        square = matrices @ matrices.mT
        matrices = _A * matrices + (_B * square + _C * square @ square) @ matrices
    result: Tensor = matrices.mT if tall else matrices
    return result.to(stack.dtype)


def hidden_matrices(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that map to hidden units: those that stack an LSTM's gates, and those that are one matrix.

    The classifier, the last linear layer, is left out, because its rows are classes; so are embeddings of labels.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    stacked, single = [], []
    for module in network.modules():
        own = [weights for weights in module.parameters(recurse=False) if weights.ndim > 1]
        if isinstance(module, nn.LSTM | nn.LSTMCell):
            stacked += own
        elif isinstance(module, nn.Conv2d) or module in linear[:-1]:
            single += own
    return stacked, single
