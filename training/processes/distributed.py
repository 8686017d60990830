"""The process group of a run by several ranks, over torch.distributed: gloo on CPUs, NCCL on GPUs."""

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hangtag.errors import UserError
from hangtag.training.errors import ProcessesError
from hangtag.training.processes.process_group import ProcessGroup

T = TypeVar("T")
_TIMEOUT = timedelta(hours=1)  # of a collective operation: while rank 0 validates, the others wait for it
_RELEASE_SECONDS = 0.1
"""How long the interpreter lock is left to gloo's thread, which needs it to free the last operation's tensors.

Without a break, a rank that an error ends may hang: its destructors wait for that thread while they hold the lock.
"""
_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_HOW_TO_START = "Start several processes on one machine with 'hangtag train --processes N', on several with torchrun"


@dataclass(frozen=True)
class DistributedGroup(ProcessGroup):
    """The ranks of torch.distributed's default process group."""

    rank: int
    world_size: int
    in_lockstep = True

    def broadcast(self, value: T) -> T:
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def all_gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        value: T | None = None
        error: BaseException | None = None
        if self.is_rank_zero:
            try:
                value = work()
            except BaseException as raised:
                # Rank 0 shows the traceback of a bug; the other ranks exit without one.
                expected = isinstance(raised, UserError | KeyboardInterrupt)
                self.broadcast((None, raised if expected else SystemExit(1)))
                raise
        value, error = self.broadcast((value, error))
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def on_every_rank(self, work: Callable[[], T]) -> T:
        value: T | None = None
        error: UserError | KeyboardInterrupt | None = None
        try:
            value = work()
        except (UserError, KeyboardInterrupt) as raised:
            error = raised
        for error_of_rank in self.all_gather(error):
            if error_of_rank is not None:
                raise error_of_rank
        return value  # type: ignore[return-value]

    def share_of(self, batch: Tensor) -> tuple[Tensor, float]:
        share = batch[self.rank :: self.world_size]
        if not len(share):
            # A rank without samples recomputes one with weight 0, so that DDP never waits for it.
            return batch[:1], 0.0
        return share, self.world_size * len(share) / len(batch)

    def wrap(self, network: nn.Module) -> nn.Module:
        if next(network.parameters()).is_cuda:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return DistributedDataParallel(network)


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the process group that torchrun's environment variables describe; without them, a group of one process.

    Args:
        device: "cpu" or "cuda".

    Raises:
        ProcessesError: The variables are incomplete or malformed, or there are more local processes than GPUs.
    """
    world_size = _integer("WORLD_SIZE", default=1)
    if world_size == 1:
        yield ProcessGroup()
        return
    if missing := [name for name in _VARIABLES if name not in os.environ]:
        raise ProcessesError(
            f"WORLD_SIZE is set to {world_size}, for a run by {world_size} processes, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set. {_HOW_TO_START}; for a single process, unset WORLD_SIZE."
        )
    local_rank = _integer("LOCAL_RANK")
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ProcessesError(
                f"{_integer('LOCAL_WORLD_SIZE')} processes need a GPU each, and PyTorch sees "
                f"{torch.cuda.device_count()} here. Start as many processes as there are GPUs."
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield DistributedGroup(dist.get_rank(), world_size)
    finally:
        time.sleep(_RELEASE_SECONDS)
        dist.destroy_process_group()
    atexit.register(_exit_without_destructors)


def _exit_without_destructors() -> None:
    """End a process that succeeded before C++'s destructors run.

    DistributedDataParallel leaves gloo's threads behind, which nothing in Python can end. Now and then the destructors
    abort because of them, and torchrun would report a finished run as a failed one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _integer(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ProcessesError(f"{name} is set to {text!r} and must be a whole number. {_HOW_TO_START}.") from error
