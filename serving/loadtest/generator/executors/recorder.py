"""Records how each query ended: latency from the planned send time, service time from the actual one, status code.

`Recorder.record` runs once per query, on the channels' threads, so it only appends to a list.
`Recorder.fold` counts the list into histograms now and then, which bounds the memory and gives the live figures.
"""

import math
from collections import Counter

import numpy as np
import numpy.typing as npt

from hangtag.serving.loadtest.generator.block_result import DELAYED_AFTER, OK, BlockResult, TimeSlice
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import Load
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram

# The picture of latency over time has about this many slices per block, none shorter than SHORTEST_SLICE seconds.
SLICES = 10
SHORTEST_SLICE = 0.1
LOST = "UNKNOWN"
"""The status of a query whose end gRPC never reported."""


class Recorder:
    """Collects the queries of one block. Times are seconds on one monotonic clock."""

    def __init__(self, window_start: float, limits: Limits) -> None:
        """Start recording.

        Queries planned before `window_start` are warm-up: they count towards the throughput alone, and only when
        answered within the window.
        """
        self.window_start = window_start
        self.statuses: Counter[str] = Counter()
        self.details: dict[str, str] = {}
        self.latency = DurationHistogram()
        self._service = DurationHistogram()
        self._lateness = DurationHistogram()
        self._delayed = 0
        self._slice_length = max(limits.min_duration / SLICES, SHORTEST_SLICE)
        self._slices: dict[int, tuple[DurationHistogram, Counter[str]]] = {}
        self._ended: list[tuple[float, float, float, str]] = []
        self._warm_up_ended: list[tuple[float, str]] = []
        self._folded = 0
        self._answered_in_window = 0
        self._warm_up_queries = 0

    def record(self, planned: float, sent: float, ended: float, status: str) -> None:
        """Record that a query ended. Thread-safe: appending to a list is atomic."""
        if planned >= self.window_start:
            self._ended.append((planned, sent, ended, status))
        else:
            self._warm_up_ended.append((ended, status))

    def record_lost(self, count: int) -> None:
        """Record queries whose end gRPC never reported."""
        self.statuses[LOST] += count
        self.details.setdefault(LOST, "gRPC did not report the end of the call, not even when its deadline had passed")
        self._folded += count

    @property
    def queries(self) -> int:
        """Queries ended so far, without the warm-up's."""
        return self._folded + len(self._ended)

    def fold(self, window_end: float = 0.0) -> None:
        """Count the queries recorded since the last call; `window_end` is 0 while the block runs."""
        window_end = window_end or math.inf
        warm_up, self._warm_up_ended = self._warm_up_ended, []
        self._warm_up_queries += len(warm_up)
        self._count_answers(np.array([ended for ended, status in warm_up if status == OK]), window_end)
        batch, self._ended = self._ended, []
        if not batch:
            return
        *times, statuses = zip(*batch, strict=True)
        planned, sent, ended = map(np.array, times)
        ok = np.array([status == OK for status in statuses])
        self._folded += len(batch)
        self.statuses.update(statuses)
        self._count_answers(ended[ok], window_end)
        self.latency.record((ended - planned)[ok])
        self._service.record((ended - sent)[ok])
        self._lateness.record(sent - planned)
        self._delayed += int(np.count_nonzero(sent - planned > DELAYED_AFTER))
        self._count_slices(planned, ended, ok)

    def _count_answers(self, arrivals: npt.NDArray[np.float64], window_end: float) -> None:
        inside = (arrivals >= self.window_start) & (arrivals <= window_end)
        self._answered_in_window += int(np.count_nonzero(inside))

    def _count_slices(
        self, planned: npt.NDArray[np.float64], ended: npt.NDArray[np.float64], ok: npt.NDArray[np.bool_]
    ) -> None:
        indices = ((ended - self.window_start) // self._slice_length).astype(int)
        for index in np.unique(indices).tolist():
            here = indices == index
            latency, ends = self._slices.setdefault(index, (DurationHistogram(), Counter()))
            latency.record((ended - planned)[here & ok])
            ends["failed"] += int(np.count_nonzero(here & ~ok))

    def result(self, target: str, load: Load, window_end: float, *, stopped: bool = False) -> BlockResult:
        """What the block measured until `window_end`; `stopped` says that it was ended early. Record nothing more."""
        self.fold(window_end)
        return BlockResult(
            target=target,
            load=load,
            window=max(window_end - self.window_start, 0.0),
            answered_in_window=self._answered_in_window,
            warm_up_queries=self._warm_up_queries,
            statuses=self.statuses,
            details=self.details,
            latency=self.latency,
            service=self._service,
            lateness=self._lateness,
            delayed=self._delayed,
            finished=not stopped,
            timeline=tuple(
                TimeSlice(index * self._slice_length, self._slice_length, latency, ends["failed"])
                for index, (latency, ends) in sorted(self._slices.items())
            ),
        )
