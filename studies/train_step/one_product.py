"""An LSTM written by hand whose input products are one matrix product: what oneDNN's LSTM is compared with.

The products of the 28 rows of an image with the input weights depend on no earlier step, so one product before the
recurrence computes them all. Backwards, the products for the gradients of both weight matrices are one each too, and
only those with the recurrent weights remain for each of the 28 steps.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class OneProductLstm(Function):
    """The last hidden state [batch, hidden] of images [batch, steps, inputs], with the weights of an nn.LSTM.

    Products are computed in the dtype of ``images``, and everything else in FP32.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, input_weights: Tensor, hidden_weights: Tensor, bias: Tensor) -> Tensor:
        """Args: images, input_weights [4 * hidden, inputs], hidden_weights [4 * hidden, hidden], bias [4 * hidden]."""
        batch, steps, inputs = images.shape
        hidden = hidden_weights.shape[1]
        rows = images.transpose(0, 1).contiguous()  # [steps, batch, inputs]
        across, onward = input_weights.to(rows.dtype).t(), hidden_weights.to(rows.dtype).t().contiguous()
        sums = (rows.view(-1, inputs) @ across).float().view(steps, batch, 4 * hidden) + bias
        states = rows.new_zeros(steps + 1, batch, hidden)
        cells = sums.new_zeros(steps + 1, batch, hidden)
        gates = torch.empty_like(sums)  # input, forget, candidate, output
        squashed = torch.empty_like(cells[1:])
        for step in range(steps):
            total, gate = sums[step], gates[step]
            if step:
                total += states[step] @ onward
            candidate = gate[:, 2 * hidden : 3 * hidden]
            torch.sigmoid(total, out=gate)
            torch.tanh(total[:, 2 * hidden : 3 * hidden], out=candidate)
            cell = cells[step + 1]
            torch.mul(gate[:, hidden : 2 * hidden], cells[step], out=cell)
            cell.addcmul_(gate[:, :hidden], candidate)
            torch.tanh(cell, out=squashed[step])
            states[step + 1] = gate[:, 3 * hidden :] * squashed[step]
        ctx.save_for_backward(rows, hidden_weights, states, cells, gates, squashed)
        return states[-1].float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        """The gradients of both weight matrices and of the bias; images need none."""
        rows, hidden_weights, states, cells, gates, squashed = ctx.saved_tensors
        steps, batch, _ = gates.shape
        (state_gradient,) = gradients
        in_gate, forget, candidate, out_gate = gates.chunk(4, dim=2)
        # The derivatives that depend on one step alone, of all steps at once: of the cell by its three gates' sums, of
        # the state by the output gate's sum, and of the state by the cell.
        by_cell = torch.stack(
            [
                in_gate * (1 - in_gate) * candidate,
                forget * (1 - forget) * cells[:-1],
                (1 - candidate * candidate) * in_gate,
            ],
            dim=2,
        )  # [steps, batch, 3, hidden]
        by_state = out_gate * (1 - out_gate) * squashed
        through = out_gate * (1 - squashed * squashed)
        onward = hidden_weights.to(rows.dtype)
        sums = rows.new_empty(steps, batch, 4, onward.shape[1])
        cell_gradient = torch.zeros_like(cells[0])
        for step in reversed(range(steps)):
            cell_gradient.addcmul_(state_gradient, through[step])
            sums[step, :, :3] = cell_gradient.unsqueeze(1) * by_cell[step]
            sums[step, :, 3] = state_gradient * by_state[step]
            if step:
                cell_gradient *= forget[step]
                state_gradient = (sums[step].view(batch, -1) @ onward).float()
        flat = sums.view(steps * batch, -1)
        of_inputs = flat.t() @ rows.view(steps * batch, -1)
        of_states = flat.t() @ states[:-1].reshape(steps * batch, -1)
        return None, of_inputs.float(), of_states.float(), flat.float().sum(dim=0)
