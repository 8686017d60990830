"""The resident memory of processes, as Linux counts it."""

import re
from pathlib import Path


def held(process: int | str = "self") -> int:
    """The resident memory of the process with this PID, in bytes."""
    return _bytes(process, "VmRSS")


def held_with_children(process: int) -> int:
    """The resident memory of a process and its child processes, in bytes."""
    lists = Path(f"/proc/{process}/task").glob("*/children")
    return held(process) + sum(held(int(child)) for each in lists for child in each.read_text().split())


def most_held(process: int | str = "self") -> int:
    """The peak resident memory of a process, in bytes."""
    return _bytes(process, "VmHWM")


def _bytes(process: int | str, name: str) -> int:
    (kib,) = re.findall(rf"{name}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(kib) << 10
