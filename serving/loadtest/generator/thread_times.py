"""Measures how busy this process's threads are: computing, or waiting for a CPU that other threads occupy."""

from pathlib import Path

TASKS = Path("/proc/self/task")


def busy_seconds(tasks: Path = TASKS) -> dict[str, float]:
    """Seconds that each thread of this process, by thread id, has computed or waited for a CPU so far.

    Empty where the kernel does not count. Source: Linux, Documentation/scheduler/sched-stats.rst.
    """
    seconds = {}
    for task in tasks.glob("*"):
        try:
            computed, waited = (task / "schedstat").read_text().split()[:2]
        except (OSError, ValueError):
            continue  # The thread has ended, or this kernel does not count.
        seconds[task.name] = (int(computed) + int(waited)) / 1e9
    return seconds


def busiest_share(before: dict[str, float], after: dict[str, float], seconds: float) -> float:
    """The share of these seconds that the busiest thread was busy, from two `busy_seconds`; 0 without threads."""
    return max((spent - before.get(thread, 0.0) for thread, spent in after.items()), default=0.0) / seconds
