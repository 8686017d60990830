"""Recording what happened to each query: latencies from the planned and from the actual send time, and status codes.

The hot path (`Recorder.record`, once a query, on the threads of the calls) appends to a list and nothing else.
`Recorder.fold` turns the list into histograms now and then, which bounds the memory and gives the live figures.
"""

import math
from collections import Counter

import numpy as np
import numpy.typing as npt

from hangtag.serving.loadtest.generator.block_result import OK, BlockResult, Slice
from hangtag.serving.loadtest.plan.load import Limits, Load
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram

# An open loop's query that left this much later than planned (seconds) is a delayed request: beyond what the operating
# system needs to wake a thread on a busy machine, so the generator had fallen behind.
DELAYED_AFTER = 0.005
# A block is cut into about so many slices for the picture of latency over time, none shorter than this (seconds).
SLICES = 10
SHORTEST_SLICE = 0.1


class Recorder:
    """Collects the queries of one block. Times are seconds on one monotonic clock."""

    def __init__(self, window_start: float, limits: Limits) -> None:
        """Queries planned before `window_start` are warm-up: they count for throughput only, and only when answered
        within the window."""
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
        self._warm: list[tuple[float, str]] = []
        self._folded = 0
        self._answered_in_window = 0
        self._warm_up_queries = 0

    def record(self, planned: float, sent: float, ended: float, status: str) -> None:
        """A query ended. Called from several threads at once: appending to a list is atomic."""
        if planned >= self.window_start:
            self._ended.append((planned, sent, ended, status))
        else:
            self._warm.append((ended, status))

    @property
    def queries(self) -> int:
        """How many queries ended so far, the warm-up's left out."""
        return self._folded + len(self._ended)

    def fold(self, window_end: float = 0.0) -> None:
        """Count what was recorded since the last fold. 0: the block still runs, and its window has no end yet."""
        window_end = window_end or math.inf
        warm, self._warm = self._warm, []
        self._warm_up_queries += len(warm)
        self._count_answers(np.array([ended for ended, status in warm if status == OK]), window_end)
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
        self._slice(planned, ended, ok)

    def _count_answers(self, arrivals: npt.NDArray[np.float64], window_end: float) -> None:
        inside = (arrivals >= self.window_start) & (arrivals <= window_end)
        self._answered_in_window += int(np.count_nonzero(inside))

    def _slice(
        self, planned: npt.NDArray[np.float64], ended: npt.NDArray[np.float64], ok: npt.NDArray[np.bool_]
    ) -> None:
        places = ((ended - self.window_start) // self._slice_length).astype(int)
        for place in np.unique(places).tolist():
            here = places == place
            latency, ends = self._slices.setdefault(place, (DurationHistogram(), Counter()))
            latency.record((ended - planned)[here & ok])
            ends["failed"] += int(np.count_nonzero(here & ~ok))

    def result(self, target: str, load: Load, window_end: float, *, stopped: bool = False) -> BlockResult:
        """What the block measured; `stopped` when somebody ended it early. Ends the recorder's use."""
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
                Slice(place * self._slice_length, self._slice_length, latency, ends["failed"])
                for place, (latency, ends) in sorted(self._slices.items())
            ),
        )
