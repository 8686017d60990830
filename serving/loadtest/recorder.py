"""Recording what happened to each query: latencies from the planned and from the actual send time, and status codes.

The hot path (`Recorder.record`, once a query, on gRPC's threads) appends to a list and nothing else. `Recorder.fold`
turns the list into histograms now and then, which bounds the memory and gives the live figures.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from serving.loadtest.histogram import Histogram
from serving.loadtest.scenario import Load

OK = "OK"
# An open loop's query that left this much later than planned (seconds) is a delayed request: beyond what the operating
# system needs to wake a thread on a busy machine, so the generator had fallen behind.
DELAYED_AFTER = 0.005


@dataclass(frozen=True)
class BlockResult:
    """What one block of queries measured, or several merged. Durations in seconds.

    Latency counts from the planned send time, service time from the actual one. In a closed loop a query is planned
    for the moment its slot falls free, so the two agree. Only answered queries (status OK) have durations.
    """

    model: str
    load: Load
    window: float  # From the end of the warm-up until nothing more was sent.
    answered_in_window: int  # OK answers that arrived within it, those to queries of the warm-up included.
    warm_up_queries: int  # Discarded.
    statuses: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)  # The first message that came with each status but OK.
    latency: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    lateness: Histogram = field(default_factory=Histogram)  # Actual minus planned send time, of every query.
    delayed: int = 0  # Sent too late: see DELAYED_AFTER.
    finished: bool = True  # Both minima were reached.

    @property
    def queries(self) -> int:
        """How many queries were sent and ended, the warm-up's left out."""
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """How many of them ended with another status than OK."""
        return self.queries - self.statuses[OK]

    @property
    def throughput(self) -> float:
        """Answered queries a second."""
        return self.answered_in_window / self.window if self.window > 0 else 0.0

    @classmethod
    def merged(cls, blocks: list["BlockResult"]) -> "BlockResult":
        """The blocks of one model under one load as one."""
        details: dict[str, str] = {}
        for block in reversed(blocks):
            details |= block.details
        return cls(
            model=blocks[0].model,
            load=blocks[0].load,
            window=sum(block.window for block in blocks),
            answered_in_window=sum(block.answered_in_window for block in blocks),
            warm_up_queries=sum(block.warm_up_queries for block in blocks),
            statuses=sum((block.statuses for block in blocks), Counter()),
            details=details,
            latency=Histogram.merged(block.latency for block in blocks),
            service=Histogram.merged(block.service for block in blocks),
            lateness=Histogram.merged(block.lateness for block in blocks),
            delayed=sum(block.delayed for block in blocks),
            finished=all(block.finished for block in blocks),
        )


class Recorder:
    """Collects the queries of one block. Times are seconds on one monotonic clock."""

    def __init__(self, window_start: float) -> None:
        """Queries planned before `window_start` are warm-up: they count for throughput only, and only when answered
        within the window."""
        self.window_start = window_start
        self.statuses: Counter[str] = Counter()
        self.details: dict[str, str] = {}
        self.latency = Histogram()
        self._service = Histogram()
        self._lateness = Histogram()
        self._delayed = 0
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

    def fold(self, window_end: float = math.inf) -> None:
        """Count what was recorded since the last fold. While the block still runs, its window has no end."""
        warm, self._warm = self._warm, []
        self._warm_up_queries += len(warm)
        self._count_answers(np.array([ended for ended, status in warm if status == OK]), window_end)
        batch, self._ended = self._ended, []
        if not batch:
            return
        planned, sent, ended = np.array([times for *times, _ in batch]).T
        ok = np.array([status == OK for *_, status in batch])
        self._folded += len(batch)
        self.statuses.update(status for *_, status in batch)
        self._count_answers(ended[ok], window_end)
        self.latency.record((ended - planned)[ok])
        self._service.record((ended - sent)[ok])
        self._lateness.record(sent - planned)
        self._delayed += int(np.count_nonzero(sent - planned > DELAYED_AFTER))

    def _count_answers(self, arrivals: npt.NDArray[np.float64], window_end: float) -> None:
        inside = (arrivals >= self.window_start) & (arrivals <= window_end)
        self._answered_in_window += int(np.count_nonzero(inside))

    def result(self, model: str, load: Load, window_end: float, finished: bool) -> BlockResult:
        """What the block measured. Ends the recorder's use."""
        self.fold(window_end)
        return BlockResult(
            model=model,
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
            finished=finished,
        )
