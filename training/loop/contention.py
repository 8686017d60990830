"""Notices when other programs take the CPUs that a run trains on, so that the run can say why it is slow."""

import time
from collections.abc import Callable

MEASURED_STEPS = 50
"""Steps over which the slowdown is measured."""
WARNED_FACTOR = 1.5
"""A step that takes this many times as long as its own computing is worth a warning. Alone it takes as long; beside one
other program that wants every CPU, twice as long, or a little less."""


class ContentionMeter:
    """Measures over the first steps of a run, after one that warms up, how much longer they take than they compute.

    The thread that trains computes all the time on CPUs of its own. It sleeps where another program has its CPU, and
    where it waits for a thread of OpenMP whose CPU another program has.
    """

    def __init__(
        self, elapsed: Callable[[], float] = time.perf_counter, computed: Callable[[], float] = time.thread_time
    ) -> None:
        """Measure nothing yet.

        Args:
            elapsed: A clock, in seconds.
            computed: The seconds that the calling thread has had a CPU.
        """
        self._elapsed, self._computed = elapsed, computed
        self._steps = 0
        self._start = 0.0, 0.0

    def after_step(self) -> float:
        """Call it after each step, on the thread that trains.

        Returns:
            After MEASURED_STEPS steps, once: how many times as long as their computing they took. Otherwise 1.
        """
        self._steps += 1
        if self._steps == 1:
            self._start = self._elapsed(), self._computed()
        elif self._steps == 1 + MEASURED_STEPS:
            elapsed, computed = self._elapsed() - self._start[0], self._computed() - self._start[1]
            return elapsed / computed if computed > 0 else 1.0
        return 1.0
