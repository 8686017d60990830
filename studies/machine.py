"""Measures how much of the machine's processor time other programs took while something was measured."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hangtag.serving.loadtest.generator.cpu_times import CpuTimes

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Others:
    """The share of the usable processors' time that other programs took. 0 until the measurement has ended."""

    share: float = 0.0


@contextmanager
def others() -> Iterator[Others]:
    """Measure the share for the time of the context; this process and its descendants are not among the others."""
    measured = Others()
    before, own = CpuTimes.now(), cpu_seconds(os.getpid())
    yield measured
    now = CpuTimes.now()
    if elapsed := now.all - before.all:
        used = now.busy - before.busy - _TICKS * (cpu_seconds(os.getpid()) - own)
        measured.share = min(1.0, max(0.0, used / elapsed))


def family(pid: int) -> list[int]:
    """The ids of a process and all its descendants. Source: proc_pid_task(5), children."""
    children = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    return [pid, *(each for child in children.split() for each in family(int(child)))]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its descendants, and those that ended and were waited for.

    Source: proc_pid_stat(5), fields 14 to 17.
    """
    ticks = 0
    for each in family(pid):
        words = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, words[11:15]))
    return ticks / _TICKS
