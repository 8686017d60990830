"""Whether this machine can compute a network in bfloat16: PyTorch has no bfloat16 LSTM for CPUs without AVX-512."""

from functools import cache

import torch
from torch import nn


@cache
def cpu_computes_lstms_in_bf16() -> bool:
    """Whether PyTorch computes an LSTM in bfloat16 on this CPU, found out by computing a small one."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            nn.LSTM(4, 4)(torch.rand(2, 1, 4))
    except RuntimeError:
        return False
    return True


def has_lstm(network: nn.Module) -> bool:
    """Whether the network has an LSTM layer."""
    return any(isinstance(module, nn.LSTM) for module in network.modules())
