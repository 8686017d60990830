"""Muon: matrices change along the nearest orthogonal matrix to their averaged gradient (Jordan et al., 2024).

A gradient's few large directions drown the many small ones, and no rate per weight, as Adam's, brings these back. Made
orthogonal, all directions count alike, and a network learns in a fraction of the epochs.

PyTorch's own (torch.optim.Muon) knows one matrix per parameter. Here a parameter may be several: an LSTM's weights are
its four gates' stacked, and each gate is made orthogonal by itself; a convolution's is one matrix, [out, in * h * w].
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315  # Jordan's: they pull all singular values to about 1 in few steps
_MOMENTUM = 0.95
# An orthogonal matrix has entries of 1 / sqrt(its larger side) on average; times this they change as much as Adam's
# do, whatever the shape (Liu et al., Muon is Scalable for LLM Training, 2025).
_ADAMS_SIZE = 0.2
GATES = 4  # of an LSTM: input, forget, cell, output


class Muon(AdamW):
    """Muon for the groups that say how many matrices a parameter stacks, and AdamW for those that say 0."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> None:
        """A group has params, lr, weight_decay and matrices."""
        super().__init__(groups, betas=betas, eps=eps, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the weights by their gradients. Those of the matrices are used up."""
        for group in self.param_groups:
            if not group["matrices"]:
                continue
            for weights in group["params"]:
                if weights.grad is not None:
                    update = self._update(weights, weights.grad, group["matrices"])
                    weights.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                    weights.grad = None  # or AdamW would change them too
        outcome: float | None = super().step(closure)
        return outcome

    def _update(self, weights: Tensor, gradient: Tensor, matrices: int) -> Tensor:
        state = self.state[weights]
        if not state:
            state["momentum"] = torch.zeros_like(weights)
            state["step"] = torch.zeros(())  # unused here, but AdamW looks for it in every state that it is given back
        average = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        ahead = gradient.lerp(average, _MOMENTUM)  # Nesterov's
        stack = ahead.reshape(matrices, len(weights) // matrices, -1)
        return orthogonal(stack).mul_(_ADAMS_SIZE * max(stack.shape[1:]) ** 0.5).reshape(weights.shape)


def orthogonal(stack: Tensor) -> Tensor:
    """Matrices [n, rows, columns] with nearly all singular values between 0.7 and 1.2, by Newton and Schulz's steps.

    In bfloat16: they forgive what it rounds.
    """
    matrices = stack.bfloat16()
    if tall := matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT  # the smaller side first: its square is what is multiplied
    matrices = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        square = matrices @ matrices.mT
        matrices = _A * matrices + (_B * square + _C * square @ square) @ matrices
    upright: Tensor = matrices.mT if tall else matrices
    return upright.to(stack.dtype)


def matrices(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that map to hidden units, for Muon: those that stack an LSTM's gates, and those of one matrix.

    Not the classifier, the last linear layer, whose rows are classes; nor embeddings, whose rows are labels.
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
