"""Measures how busy the CPUs are that this process may use, whichever program uses them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

STAT = Path("/proc/stat")


@dataclass(frozen=True)
class CpuTimes:
    """What these CPUs have done since the machine started, in clock ticks summed over them."""

    all: int
    busy: int

    @classmethod
    def now(cls, stat: Path = STAT) -> Self:
        """Read the counts. Zeros on systems without /proc/stat. Source: Linux, proc_stat(5), the lines cpu0, cpu1, …"""
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        total = idle = 0
        try:
            lines = stat.read_text().splitlines()
        except OSError:
            lines = []
        for line in lines:
            name, *fields = line.split()
            if name in names:
                ticks = [int(field) for field in fields[:8]]  # The other two are parts of the first two.
                total += sum(ticks)
                idle += ticks[3] + ticks[4]  # idle, iowait
        return cls(total, total - idle)

    def busy_share(self, before: "CpuTimes") -> float:
        """The share of the time since `before` that the CPUs were busy; 0 where the system does not count it."""
        elapsed = self.all - before.all
        return (self.busy - before.busy) / elapsed if elapsed > 0 else 0.0
