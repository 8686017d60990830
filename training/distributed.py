"""Several processes that train one network, as torchrun starts them: who am I, and what do the others say.

Each process answers its share of every batch and PyTorch's DistributedDataParallel averages the gradients, so that the
run takes the same steps as a single process would. The first process alone writes files and validates.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
# While the first process validates, the others wait for it.
_PATIENCE = timedelta(hours=1)


@dataclass(frozen=True)
class Group:
    """The processes of one run. A run without torchrun is a group of one, which talks to nobody."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, value: T) -> T:
        """What the first process has; the others' values are of no matter."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """What every process has, in the order of their ranks; known to all."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def part(self, batch: Tensor) -> tuple[Tensor, float]:
        """This process's indices of a batch, and the weight of their mean loss, so that the average over the processes
        is the mean over the batch. Nobody may be without work: who has none answers one sample, at a weight of 0."""
        if self.size == 1:
            return batch, 1.0
        mine = batch[self.rank :: self.size]
        return (mine, self.size * len(mine) / len(batch)) if len(mine) else (batch[:1], 0.0)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network to call in training steps, whose gradients become the processes' average."""
        if self.size == 1:
            return network
        if next(network.parameters()).is_cuda:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(network)


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that torchrun's variables speak of; without them, a group of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Group(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
