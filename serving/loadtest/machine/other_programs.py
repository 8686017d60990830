"""Measures how much of the machine's CPU time other programs took, beside the load test and the servers it measures."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hangtag.serving.loadtest.machine import processes
from hangtag.serving.loadtest.machine.cpu_times import STAT, machine_times

# Seconds. The kernel counts CPU time in ticks of usually 10 ms. In a shorter time two ticks more or less are over 4
# points of the share on two CPUs, where 10 make a run doubtful.
SHORTEST = 0.25


@dataclass
class OtherPrograms:
    """What was measured. None until the measurement has ended, and where it is not known."""

    share: float | None = None
    """The share of the CPU time of the whole machine that other programs took."""


@contextmanager
def other_programs(addresses: Iterable[str] = (), stat: Path = STAT) -> Iterator[OtherPrograms]:
    """Measure the share for the time of the context.

    Not counted as others are this process with its descendants, and the processes that listen at the addresses with
    theirs. If one of those cannot be identified, the share stays unknown: a server's work would look like others'.

    Args:
        addresses: of servers on this machine.
        stat: the kernel's counts, for tests.
    """
    measured = OtherPrograms()
    servers: set[int] = set()
    known = True
    for address in set(addresses):
        listening = processes.listeners(address)
        known = known and bool(listening)
        servers |= listening
    begin, before, own_before = time.monotonic(), machine_times(stat), _own_seconds(servers)
    yield measured
    after, own = machine_times(stat), _own_seconds(servers) - own_before
    elapsed = (after.all - before.all) / os.sysconf("SC_CLK_TCK")
    if known and elapsed > 0 and time.monotonic() - begin >= SHORTEST:
        busy = (after.busy - before.busy) / os.sysconf("SC_CLK_TCK")
        measured.share = min(1.0, max(0.0, (busy - own) / elapsed))


def _own_seconds(servers: Iterable[int]) -> float:
    ours = processes.family(os.getpid()).union(*map(processes.family, servers))
    return processes.cpu_seconds(ours)
