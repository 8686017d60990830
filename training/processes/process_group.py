"""Several processes that train one network: who am I, and what do the others say.

Each process answers its share of every batch and PyTorch's DistributedDataParallel averages the gradients, so that the
run takes the same steps as a single process would. The first process alone writes files and validates. What is refused
to one is refused to all, and the first alone says why.
"""

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import click
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hangtag.training.errors import ProcessesError

T = TypeVar("T")
# While the first process validates, the others wait for it.
_PATIENCE = timedelta(hours=1)
_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_START_WITH = "Start several processes on one machine with 'hangtag train --processes N', on several with torchrun"


@dataclass(frozen=True)
class Group:
    """The processes of one run. A run of a single process is a group of one, which talks to nobody."""

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

    def by_first(self, work: Callable[[], T]) -> T:
        """What comes of work that the first process alone does. What it raises, all raise."""
        if self.size == 1:
            return work()
        value: T | None = None
        error: BaseException | None = None
        if self.is_first:
            try:
                value = work()
            except BaseException as raised:
                self.share((None, raised if isinstance(raised, click.ClickException | KeyboardInterrupt) else _bug()))
                raise
        value, error = self.share((value, error))
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def together(self, work: Callable[[], T]) -> T:
        """What comes of work that every process does for itself. What is refused to one, all raise."""
        value: T | None = None
        error: click.ClickException | KeyboardInterrupt | None = None
        try:
            value = work()
        except (click.ClickException, KeyboardInterrupt) as raised:
            error = raised
        for raised_somewhere in self.gather(error):
            if raised_somewhere is not None:
                raise raised_somewhere
        return value  # type: ignore[return-value]

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


def _bug() -> SystemExit:
    """What ends the others where the first process shows the traceback."""
    return SystemExit(1)


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that torchrun's variables speak of; without them, a group of one.

    Raises ProcessesError for variables that do not make a group, and for more processes than there are GPUs.
    """
    size = _whole_number("WORLD_SIZE", usual=1)
    if size == 1:
        yield Group()
        return
    if missing := [name for name in _VARIABLES if name not in os.environ]:
        raise ProcessesError(
            f"WORLD_SIZE is set to {size}, which speaks of a run by {size} processes, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set. {_START_WITH}; for a single process, unset WORLD_SIZE."
        )
    local_rank = _whole_number("LOCAL_RANK")
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ProcessesError(
                f"{_whole_number('LOCAL_WORLD_SIZE')} processes need a GPU each, and PyTorch sees "
                f"{torch.cuda.device_count()} here. Start as many processes as there are GPUs."
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Group(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
    atexit.register(_leave)


def _leave() -> None:
    """End a process that did its work before C++'s destructors run: DistributedDataParallel leaves threads of gloo's
    behind that nothing in Python can end, and now and then those destructors abort because of them, so that torchrun
    calls a finished run a failed one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _whole_number(name: str, usual: int | None = None) -> int:
    text = os.environ.get(name, usual)
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ProcessesError(f"{name} is set to {text!r} and must be a whole number. {_START_WITH}.") from error


@contextmanager
def first_speaks() -> Iterator[None]:
    """Of the same command in several processes, the first alone says what was refused; the others end silently."""
    try:
        yield
    except click.ClickException as error:
        if os.environ.get("RANK", "0") == "0":
            raise
        raise SystemExit(error.exit_code) from None
