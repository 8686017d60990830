"""What the processes of a generator count together: memory that all of them see, written by one each."""

import ctypes
from multiprocessing.context import BaseContext
from typing import Any


class SharedCounts:
    """How many queries ended in each process, and when the block's measuring ended (0 while it goes on).

    Each process writes its own count only, so nothing is locked; the end is written by whoever sees it first.
    """

    def __init__(self, context: BaseContext, processes: int) -> None:
        """All zero. Give it to the processes when they start."""
        # The types of these are ctypes' own, which mypy knows as Any.
        self._counts: Any = context.RawArray(ctypes.c_int64, processes)
        self._end: Any = context.RawValue(ctypes.c_double, 0.0)

    def reset(self) -> None:
        """Before a block, while no process counts."""
        self._counts[:] = [0] * len(self._counts)
        self._end.value = 0.0

    def count(self, place: int, queries: int) -> int:
        """Note that the process at `place` ended so many queries; returns how many all of them did."""
        self._counts[place] = queries
        return sum(self._counts)

    @property
    def end(self) -> float:
        """When the block's measuring ended, on the monotonic clock; 0 while it goes on."""
        return float(self._end.value)

    def finish(self, at: float) -> None:
        """End the block for all processes, unless one has already."""
        if not self._end.value:
            self._end.value = at
