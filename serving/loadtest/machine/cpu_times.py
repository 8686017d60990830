"""Measures how busy CPUs are, whichever program uses them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

STAT = Path("/proc/stat")
_IRQ, _SOFTIRQ = 5, 6


@dataclass(frozen=True)
class CpuTimes:
    """What CPUs have done since the machine started, in clock ticks summed over them."""

    all: int
    busy: int

    @classmethod
    def now(cls, stat: Path = STAT) -> Self:
        """Read the counts of the CPUs that this process may use. Zeros on systems without /proc/stat."""
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        return cls(*_sums(stat, names.__contains__))

    def busy_share(self, before: "CpuTimes") -> float:
        """The share of the time since `before` that the CPUs were busy; 0 where the system does not count it."""
        elapsed = self.all - before.all
        return (self.busy - before.busy) / elapsed if elapsed > 0 else 0.0


def machine_times(stat: Path = STAT) -> CpuTimes:
    """Read the counts of all CPUs, where time in interrupts is not busy: no process is charged for it.

    Zeros on systems without /proc/stat.
    """
    return CpuTimes(*_sums(stat, "cpu".__eq__, idle=(3, 4, _IRQ, _SOFTIRQ)))


def _sums(stat: Path, wanted: Callable[[str], bool], idle: tuple[int, ...] = (3, 4)) -> tuple[int, int]:
    """All ticks and those that are not idle, of the wanted lines. Source: proc_stat(5)."""
    try:
        lines = stat.read_text().splitlines()
    except OSError:
        return 0, 0
    rows = [[int(field) for field in fields[:8]] for name, *fields in map(str.split, lines) if wanted(name)]
    # The last two of the ten fields are parts of the first two.
    total = sum(map(sum, rows))
    return total, total - sum(row[place] for row in rows for place in idle)
