"""Notices when other programs take the CPUs that a run trains on, so that the run can say why it is slow."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

MEASURED_STEPS = 50
"""Steps between two looks at the threads' times."""
WARNED_FACTOR = 2.0
"""A step that takes this many times as long as its own computing is worth a warning."""

_TASKS = Path("/proc/self/task")


@dataclass(frozen=True)
class CpuTime:
    """Seconds that all threads of this process have computed, and have waited for a CPU that other work had."""

    computed: float = 0.0
    waited: float = 0.0

    def __sub__(self, other: "CpuTime") -> "CpuTime":
        return CpuTime(self.computed - other.computed, self.waited - other.waited)

    @property
    def slowdown(self) -> float:
        """How many times as long as its computing the work took."""
        return (self.computed + self.waited) / self.computed if self.computed > 0 else 1.0


def cpu_time(tasks: Path = _TASKS) -> CpuTime:
    """Return the times since this process began; zeros where the kernel does not report them.

    Source: Linux' Documentation/scheduler/sched-stats: time on a CPU and time on a run queue, in nanoseconds.
    """
    computed = waited = 0
    for file in tasks.glob("*/schedstat"):
        with contextlib.suppress(OSError):  # the thread has just ended
            on_cpu, on_run_queue, _ = file.read_text().split()
            computed, waited = computed + int(on_cpu), waited + int(on_run_queue)
    return CpuTime(computed / 1e9, waited / 1e9)


class ContentionMeter:
    """Measures the slowdown over the first steps of a run, after one that warms up."""

    def __init__(self, tasks: Path = _TASKS) -> None:
        self._tasks = tasks
        self._steps = 0
        self._start = CpuTime()

    def after_step(self) -> float:
        """Call it after each step. Returns the slowdown after MEASURED_STEPS steps, once; otherwise 1."""
        self._steps += 1
        if self._steps == 1:
            self._start = cpu_time(self._tasks)
        elif self._steps == 1 + MEASURED_STEPS:
            return (cpu_time(self._tasks) - self._start).slowdown
        return 1.0
