"""Records how each query of a block ended, and combines these results over processes and blocks."""

import math
from collections import ChainMap, Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from hangtag.serving.loadtest.plan.load import Limits
from hangtag.serving.loadtest.record import NullForNan, combined, shown, stored, unstored
from hangtag.serving.loadtest.statistics.durations import (
    DurationHistogram,
    ServerTimings,
    StoredHistogram,
    StoredTimings,
)

OK, LOST = "OK", "UNKNOWN"  # LOST is the status of a query whose end gRPC did not report.
# A query of an open loop is a delayed request if it was sent this many seconds later than planned. Even a busy system
# wakes a thread sooner, so a request that is delayed by this time shows that the generator has fallen behind.
DELAYED_AFTER = 0.005


@dataclass(frozen=True)
class TimeSlice:
    """The figures of one block of a run. Durations are in seconds."""

    start: float = stored("The seconds from the test's start to the end of the block's warm-up.")
    length: float = stored()
    answered: int = stored("The number of answered queries.")
    failed: int = stored()
    p50: NullForNan = stored()
    p99: NullForNan = stored()
    max: NullForNan = stored()


# The arguments of `stored` for a field that holds a histogram.
_MERGED: dict[str, Any] = {"combine": DurationHistogram.merged, "default_factory": DurationHistogram}


@dataclass(frozen=True)
class BlockResult:
    """The result of one block, or of all blocks of a run. Durations are in seconds.

    Latency is measured from the planned send time, and service time from the actual send time. A closed loop plans a
    query for the moment at which an answer frees a slot, so the latency and the service time of a closed loop differ
    only by microseconds. Durations of queries that failed are not recorded.
    """

    warm_up_queries: int = stored("The number of queries in the warm-up, which are discarded.", combine=sum)
    duration: float = stored("The duration of the measurement, without the warm-up.", combine=sum)
    answered: int = stored("The OK answers during the measurement, including those to warm-up queries.", combine=sum)
    statuses: Counter[str] = stored(
        "The number of queries by gRPC status code, including OK.",
        combine=lambda parts: sum(parts, Counter()),
        default_factory=Counter,
    )
    # The first message of each status other than OK.
    details: dict[str, str] = unstored(combine=lambda parts: dict(ChainMap(*parts)), default_factory=dict)
    delayed_queries: int = stored("The queries that an open loop sent more than 5 ms late.", combine=sum, default=0)
    finished: bool = stored("Whether the minimum duration and query count were reached.", combine=all, default=True)
    generator_cpu: float = stored("The share of one CPU that the busiest process used.", combine=max, default=0.0)
    generator_busy: float = stored(
        "The share of time in which the busiest thread computed or waited for a CPU.", combine=max, default=0.0
    )
    generator_latency_share: float = stored(
        "The share of a closed loop's latency that the generator caused.", combine=fmean, default=0.0
    )
    generator_cpu_share: float = stored(
        "The load generator's total CPU use, as a share of the CPUs available to it.", combine=fmean, default=0.0
    )
    cpus_busy: float = stored(
        "The mean utilisation of the CPUs that the generator and the server both use.", combine=fmean, default=0.0
    )
    others_cpu_share: float | None = stored(
        "The share of the CPUs that other programs used; null if unknown.",
        combine=lambda parts: fmean(known) if (known := [part for part in parts if part is not None]) else None,
        default=None,
    )
    latency: StoredHistogram = stored(
        "The time from the planned send time to the answer, for answered calls.", **_MERGED
    )
    service_time: StoredHistogram = stored("The time from the actual send time to the answer, if answered.", **_MERGED)
    lateness: StoredHistogram = stored("The time from the planned to the actual send time, for every call.", **_MERGED)
    server: StoredTimings | None = stored(
        "The server's timings; null if the server has no statistics or restarted, or if several servers answered.",
        combine=ServerTimings.summed,
        default=None,
    )
    timeline: tuple[TimeSlice, ...] = stored(combine=lambda parts: sum(parts, ()), default=())

    @shown()
    def queries(self) -> int:
        """The number of queries that were sent and have ended, without queries of the warm-up."""
        return self.statuses.total()

    @shown()
    def throughput(self) -> float:
        """The answered calls per second."""
        return self.answered / self.duration if self.duration > 0 else 0.0

    @property
    def failed(self) -> int:
        return self.queries - self.statuses[OK]

    @classmethod
    def from_processes(cls, parts: Sequence["BlockResult"], limits: Limits) -> "BlockResult":
        """Combine the results of all processes for one block. `limits` are the limits of the whole block."""
        duration = max(part.duration for part in parts)
        reached = limits.reached(duration, sum(part.queries for part in parts))
        return combined(
            cls,
            parts,
            duration=duration,
            finished=reached and all(part.finished for part in parts),
            generator_latency_share=max(part.generator_latency_share for part in parts),
            generator_cpu_share=sum(part.generator_cpu_share for part in parts),
        )


class Recorder:
    """Records the queries of one block. Times are seconds on one monotonic clock.

    The channels' threads call `record` once per query, so `record` only appends to a list. `fold` moves the list's
    entries into histograms from time to time, which limits the memory. Queries that are planned before `window_start`
    belong to the warm-up. If a query of the warm-up is answered after `window_start`, the throughput includes the
    query, but the latency does not.
    """

    def __init__(self, window_start: float) -> None:
        self.window_start = window_start
        self.statuses: Counter[str] = Counter()
        self.details: dict[str, str] = {}
        self.latency, self._service, self._lateness = (DurationHistogram() for _ in range(3))
        self._ended: list[tuple[float, float, float, str]] = []
        self._warm_up_ended: list[tuple[float, str]] = []
        self._delayed = self._folded = self._answered_in_window = self._warm_up_queries = 0

    def record(self, planned: float, sent: float, ended: float, status: str) -> None:
        """Record that a query ended. This method is thread-safe, because appending to a list is atomic."""
        if planned >= self.window_start:
            self._ended.append((planned, sent, ended, status))
        else:
            self._warm_up_ended.append((ended, status))

    def record_lost(self, count: int) -> None:
        """Record queries whose end gRPC did not report."""
        self.statuses[LOST] += count
        self.details[LOST] = "gRPC did not report the end of the call, although the call's deadline has passed"
        self._folded += count

    @property
    def queries(self) -> int:
        """The number of queries that have ended so far, without queries of the warm-up."""
        return self._folded + len(self._ended)

    def fold(self, window_end: float = 0.0) -> None:
        """Move the queries recorded since the last call into histograms. `window_end` is 0 while the block runs."""
        warm_up, self._warm_up_ended = self._warm_up_ended, []
        batch, self._ended = self._ended, []
        self._warm_up_queries += len(warm_up)
        self._folded += len(batch)
        *times, statuses = zip(*batch, strict=True) if batch else [()] * 4
        planned, sent, ended = (np.array(each, float) for each in times)
        ok = np.array([status == OK for status in statuses], bool)
        self.statuses.update(statuses)
        answers = np.append(ended[ok], [time for time, status in warm_up if status == OK])
        inside = (answers >= self.window_start) & (answers <= (window_end or math.inf))
        self._answered_in_window += int(np.count_nonzero(inside))
        self.latency.record((ended - planned)[ok])
        self._service.record((ended - sent)[ok])
        self._lateness.record(sent - planned)
        self._delayed += int(np.count_nonzero(sent - planned > DELAYED_AFTER))

    def result(self, window_end: float, *, stopped: bool = False) -> BlockResult:
        """Return the block's result, measured until `window_end`. `stopped` says whether the block ended early. Nothing
        may be recorded after this call."""
        self.fold(window_end)
        return BlockResult(
            duration=max(window_end - self.window_start, 0.0),
            answered=self._answered_in_window,
            warm_up_queries=self._warm_up_queries,
            statuses=self.statuses,
            details=self.details,
            latency=self.latency,
            service_time=self._service,
            lateness=self._lateness,
            delayed_queries=self._delayed,
            finished=not stopped,
        )
