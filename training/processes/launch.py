"""``--processes N``: the processes of one run, started on this machine.

torchrun does the same on several machines, but ends every run that is refused with a traceback of its own.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import click
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, start_processes

from hangtag.training.processes.process_group import first_speaks

T = TypeVar("T")
_GRACE = 30.0
"""Seconds in which the other processes may end by themselves once one has ended with an error."""


class SaidOnce(click.Command):
    """A command that may run in several processes: of what is wrong with how it was called, the first alone speaks."""

    def make_context(self, *args: object, **extra: object) -> click.Context:
        with first_speaks():
            return super().make_context(*args, **extra)  # type: ignore[arg-type]

    def invoke(self, ctx: click.Context) -> object:
        with first_speaks():
            return super().invoke(ctx)


def launch(processes: int, work: Callable[[T], None], asked: T) -> None:
    """Have ``work`` done in so many processes, which find each other as those of torchrun do.

    Ctrl-C is handed on to them. Raises SystemExit with the status of the first that did not end well.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    started = start_processes(  # type: ignore[no-untyped-call]
        _process, (processes, store.port, work, asked), nprocs=processes, join=False, start_method="spawn"
    )
    assert started is not None
    with _handing_on(signal.SIGINT, started):
        try:
            while not started.join(grace_period=_GRACE):
                pass
        except ProcessExitedException as error:
            raise SystemExit(error.exit_code if error.exit_code > 0 else 1) from None


def _process(rank: int, processes: int, port: int, work: Callable[[T], None], asked: T) -> None:
    os.setpgid(0, 0)  # the terminal's Ctrl-C would come twice: from it, and handed on
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # they meet at the store of the process that started them
    }
    try:
        with first_speaks():
            work(asked)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@contextmanager
def _handing_on(number: signal.Signals, started: ProcessContext) -> Iterator[None]:
    def hand_on(number: int, _frame: FrameType | None) -> None:
        for pid in (process.pid for process in started.processes):
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    previous = signal.signal(number, hand_on)
    try:
        yield
    finally:
        signal.signal(number, previous)
