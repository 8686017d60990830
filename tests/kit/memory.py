"""The memory that a process holds, as Linux counts it."""

import re
from pathlib import Path


def held(process: int | str = "self") -> int:
    """The bytes that the process with this id holds."""
    return _bytes(process, "VmRSS")


def held_with_children(process: int) -> int:
    """The bytes that a process and its child processes hold."""
    lists = Path(f"/proc/{process}/task").glob("*/children")
    return held(process) + sum(held(int(child)) for each in lists for child in each.read_text().split())


def most_held(process: int | str = "self") -> int:
    """The largest number of bytes that a process has ever held."""
    return _bytes(process, "VmHWM")


def _bytes(process: int | str, name: str) -> int:
    (kib,) = re.findall(rf"{name}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(kib) << 10
