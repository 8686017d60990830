"""Memory shared by the generator's processes: each process's query count, and when the block's measuring ended."""

import ctypes
from multiprocessing.context import BaseContext
from typing import Any


class SharedCounts:
    """Lets each process see how many queries all processes have completed.

    Nothing is locked: each process writes only its own count, and the first to see the end of the block writes that.
    """

    def __init__(self, context: BaseContext, processes: int) -> None:
        """Allocate zeroed memory. Pass this object to the processes when they start."""
        # ctypes' own array types, which mypy sees as Any.
        self._counts: Any = context.RawArray(ctypes.c_int64, processes)
        self._end: Any = context.RawValue(ctypes.c_double, 0.0)

    def reset(self) -> None:
        """Start a new block. Call it while no process is running one."""
        self._counts[:] = [0] * len(self._counts)
        self._end.value = 0.0

    def update(self, process: int, queries: int) -> int:
        """Set the number of queries that process number `process` has completed, and return the sum over all."""
        self._counts[process] = queries
        return sum(self._counts)

    @property
    def end(self) -> float:
        """When the block's measuring ended, on the monotonic clock; 0 while it goes on."""
        return float(self._end.value)

    def finish(self, at: float) -> None:
        """End the block for all processes, unless it has ended already."""
        if not self._end.value:
            self._end.value = at
