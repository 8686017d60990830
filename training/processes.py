"""The processes of a run: one process, or several ranks that communicate through torch.distributed.

Each rank computes its share of every batch, and the gradients are averaged, so that the run takes the same steps as a
single process would. Only rank 0 validates and writes files.
"""

import atexit
import contextlib
import ctypes
import os
import signal
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
from torch.multiprocessing.spawn import ProcessExitedException, start_processes
from torch.nn.parallel import DistributedDataParallel

from hangtag.errors import UserError
from hangtag.training.errors import SettingsError

T = TypeVar("T")
_TIMEOUT = timedelta(hours=1)  # for a collective operation, in which the other ranks wait while rank 0 validates
_GRACE = 30.0  # when a process has failed, the others have this many seconds to exit before they are terminated
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from malloc.h


class ProcessGroup:
    """Null object: rank 0 in a world of size 1, so that collective operations involve no other process."""

    rank = 0
    world_size = 1

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    def all_gather(self, value: T) -> list[T]:
        """Return in every rank the list of all ranks' values, in the order of the ranks."""
        return [value]

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """Return the result of work that only rank 0 does. If rank 0 raises an error, every rank raises it."""
        return work()

    def on_every_rank(self, work: Callable[[], T]) -> T:
        """Return the result of work that every rank does for itself. If one rank fails, all ranks raise an error."""
        return work()

    def share_of(self, batch: Tensor) -> tuple[Tensor, float]:
        """Return this rank's share of a batch of sample indices, and the weight of this rank's mean loss. The average
        of the weighted losses over the ranks is the mean loss of the batch."""
        return batch, 1.0

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network to call in training steps. The gradients of this network are averaged over the ranks."""
        return network


@dataclass(frozen=True)
class DistributedGroup(ProcessGroup):
    """The ranks of torch.distributed's default process group."""

    rank: int
    world_size: int

    def all_gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        values = [self.on_every_rank(work if self.is_rank_zero else lambda: None)]
        dist.broadcast_object_list(values, src=0)
        return values[0]  # type: ignore[return-value]

    def on_every_rank(self, work: Callable[[], T]) -> T:
        try:
            value = work()
        except BaseException as error:
            # The rank with a bug shows its traceback; the other ranks exit without a traceback.
            expected = isinstance(error, UserError | KeyboardInterrupt)
            self.all_gather(error if expected else SystemExit(1))
            raise
        for error_of_rank in self.all_gather(None):
            if error_of_rank is not None:
                raise error_of_rank
        return value

    def share_of(self, batch: Tensor) -> tuple[Tensor, float]:
        share = batch[self.rank :: self.world_size]
        if not len(share):
            # A rank without samples computes another rank's sample with weight 0, so that DDP never waits for it.
            return batch[:1], 0.0
        return share, self.world_size * len(share) / len(batch)

    def wrap(self, network: nn.Module) -> nn.Module:
        if next(network.parameters()).is_cuda:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return DistributedDataParallel(network)


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the process group that torchrun's environment variables describe, or else a group of one process. Raises
    SettingsError if the variables are incomplete or malformed, or if there are more local processes than GPUs."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ProcessGroup()
        return
    try:
        if device == "cuda" and (local_rank := int(os.environ["LOCAL_RANK"])) < torch.cuda.device_count():
            torch.cuda.set_device(local_rank)
        elif device == "cuda":
            raise SettingsError(
                f"{os.environ['LOCAL_WORLD_SIZE']} processes need one GPU each, but the number of GPUs "
                f"that PyTorch sees is {torch.cuda.device_count()}. Start one process for each GPU."
            )
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_TIMEOUT)
    except (KeyError, ValueError) as error:  # a variable is missing or is not a number
        raise SettingsError(
            f"WORLD_SIZE is set to {os.environ['WORLD_SIZE']}, for a run with several processes, but they cannot form "
            f"a group ({error}). Start several processes on one machine with 'hangtag train --processes N', and on "
            "several machines with torchrun. For a single process, unset WORLD_SIZE."
        ) from error
    try:
        yield DistributedGroup(dist.get_rank(), dist.get_world_size())
    finally:
        # The sleep releases the interpreter lock, so that gloo's thread can free its last tensors. Otherwise the
        # destructors of a rank that ends with an error may hold the interpreter lock while they wait for gloo's thread.
        time.sleep(0.1)
        dist.destroy_process_group()
    atexit.register(_exit_without_destructors)


def _exit_without_destructors() -> None:
    """Exit with status 0 without running C++'s destructors. DistributedDataParallel leaves gloo's threads behind,
    so the destructors sometimes abort the process, which torchrun would report as a failure."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def launch(processes: int, work: Callable[[T], None], settings: T) -> None:
    """Run ``work(settings)`` in several processes, without torchrun, which would add a traceback to every error. Ctrl-C
    is forwarded to the processes. Raises SystemExit with the exit status of the first process that failed."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    context = start_processes(
        _process, (processes, store.port, work, settings), nprocs=processes, join=False, start_method="spawn"
    )
    assert context is not None
    ended = False
    while not ended:
        try:
            ended = context.join(grace_period=_GRACE)
        except KeyboardInterrupt:
            for pid in context.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
        except ProcessExitedException as error:
            raise SystemExit(error.exit_code if error.exit_code > 0 else 1) from None


def _process(rank: int, processes: int, port: int, work: Callable[[T], None], settings: T) -> None:
    os.setpgid(0, 0)  # otherwise Ctrl-C would arrive twice: from the terminal and from the parent
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the processes rendezvous at their parent's store
    }
    try:
        work(settings)
    except UserError as error:
        if rank == 0:
            sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for later tensors. By default, glibc maps new memory for the largest tensors
    in every training step, and the kernel must clear its pages: 60,000 in a step of ``resnet-28x28``."""
    with contextlib.suppress(AttributeError):  # not every C library has mallopt
        mallopt = ctypes.CDLL(None).mallopt
        for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            mallopt(parameter, 2**31 - 1)
