"""How busy a process's threads are, as Linux counts it: computing, or kept from it by others on the same CPUs."""

from pathlib import Path

TASKS = Path("/proc/self/task")


def occupied(tasks: Path = TASKS) -> dict[str, float]:
    """Seconds that each thread of this process (by its id) has computed or waited for a CPU; empty where the kernel
    does not tell. Source: Linux, Documentation/scheduler/sched-stats.rst."""
    found = {}
    for task in tasks.glob("*"):
        try:
            computed, waited = (task / "schedstat").read_text().split()[:2]
        except (OSError, ValueError):
            continue  # The thread has ended, or this kernel does not count.
        found[task.name] = (int(computed) + int(waited)) / 1e9
    return found


def busiest(before: dict[str, float], after: dict[str, float], seconds: float) -> float:
    """The share of these seconds for which the busiest thread was occupied between two looks; 0 where none is known."""
    return max((spent - before.get(thread, 0.0) for thread, spent in after.items()), default=0.0) / seconds
