"""Counts the CPUs that this process may use, which in a container are fewer than the host's."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """Return the size of the affinity mask or the CPU quota rounded up, whichever is smaller, and at least 1.

    The quota comes from cgroup v2's cpu.max ("quota period" or "max period" in microseconds), or from v1's cfs files.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((cgroup / file).read_text() for file in files).split()
            quota, period = words[0], float(words[1])
            return None if quota in ("max", "-1") else float(quota) / period
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            continue
    return None
