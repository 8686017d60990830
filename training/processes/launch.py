"""``--processes N``: starts the processes of one run on this machine, and how they get the memory of their tensors.

torchrun does the same on several machines, but adds a traceback of its own to every error message.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from hangtag.errors import UserError

T = TypeVar("T")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in malloc.h
_LARGEST = 2**31 - 1
_GRACE = 30.0
"""Seconds that the other processes have to end by themselves once one has ended with an error."""


def launch(processes: int, work: Callable[[T], None], settings: T) -> None:
    """Run ``work(settings)`` in several processes, which find each other through torchrun's environment variables.

    Ctrl-C is forwarded to them. Raises SystemExit with the exit status of the first process that failed.
    """
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
    os.setpgid(0, 0)  # else Ctrl-C would arrive twice: from the terminal, and forwarded
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


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the tensors to come, instead of returning it to the kernel.

    Every step allocates the same large tensors and frees them. By default glibc maps the largest again each time, and
    the kernel has to clear their pages: 60,000 in a step of ``resnet-28x28`` or of ``lstm2`` by the recipe ``best``.
    In exchange the process holds more memory at its peak.

    Returns:
        Whether the C library takes the setting. glibc does; others keep their defaults.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # a C library without it; TypeError is Windows'
        return False
    return all(mallopt(parameter, _LARGEST) == 1 for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
