"""What one block measured, and how the results of processes or blocks are combined."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import Load
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings

OK = "OK"
# A query of an open loop that left this many seconds later than planned is a delayed request: that is more than the
# operating system needs to wake a thread on a busy machine, so the generator had fallen behind.
DELAYED_AFTER = 0.005


@dataclass(frozen=True)
class TimeSlice:
    """A short part of a block: the latencies of the answers that arrived in it, and the number of failed calls."""

    start: float  # Seconds from the end of the warm-up, in a process; from the start of the test, in a run.
    length: float
    latency: DurationHistogram
    failed: int = 0


@dataclass(frozen=True)
class BlockResult:
    """What one block measured, or several blocks combined. Durations in seconds.

    Latency counts from the planned send time, service time from the actual one. A closed loop plans a query for the
    moment at which an answer frees its slot, so there they differ by microseconds. Only answered queries (status OK)
    have durations.
    """

    target: str
    load: Load
    window: float  # From the end of the warm-up until the last query was sent.
    answered_in_window: int  # OK answers that arrived within the window, those to warm-up queries included.
    warm_up_queries: int  # Discarded.
    statuses: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)  # The first message of each status but OK.
    latency: DurationHistogram = field(default_factory=DurationHistogram)
    service: DurationHistogram = field(default_factory=DurationHistogram)
    lateness: DurationHistogram = field(default_factory=DurationHistogram)  # Actual minus planned send, all queries.
    delayed: int = 0  # Queries sent more than DELAYED_AFTER late.
    finished: bool = True  # Both minima were reached, and nothing stopped the block early.
    timeline: tuple[TimeSlice, ...] = ()
    generator_cpu: float = 0.0  # CPUs that the generator's busiest process used, on average.
    generator_busy: float = 0.0  # The share of the time that its busiest thread computed or waited for a CPU.
    cpu_share: float = 0.0  # The share of the CPUs it may use that the generator took, with all of its processes.
    cpus_busy: float = 0.0  # The share of the time that these were busy; 0 where they are not the server's too.
    others: float | None = None  # The share of this machine's CPUs that other programs took; None where unknown.
    server: ServerTimings | None = None  # What the server counted in the meantime, where it keeps statistics.

    @property
    def queries(self) -> int:
        """Queries sent and ended, without the warm-up's."""
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """Queries that ended with a status other than OK."""
        return self.queries - self.statuses[OK]

    @property
    def throughput(self) -> float:
        """Answered queries per second."""
        return self.answered_in_window / self.window if self.window > 0 else 0.0

    @classmethod
    def from_processes(cls, parts: Sequence["BlockResult"], limits: Limits) -> "BlockResult":
        """Combine what several processes measured of one block at the same time. `limits` are the whole block's."""
        total = cls._summed(parts, window=max(part.window for part in parts))
        slices: dict[float, list[TimeSlice]] = {}
        for part in parts:
            for time_slice in part.timeline:
                slices.setdefault(time_slice.start, []).append(time_slice)
        return replace(
            total,
            cpu_share=sum(part.cpu_share for part in parts),
            finished=total.finished and limits.reached(total.window, total.queries),
            timeline=tuple(
                TimeSlice(
                    start,
                    same[0].length,
                    DurationHistogram.merged(part.latency for part in same),
                    sum(part.failed for part in same),
                )
                for start, same in sorted(slices.items())
            ),
        )

    @classmethod
    def from_blocks(cls, blocks: Sequence["BlockResult"]) -> "BlockResult":
        """Combine the blocks of one target under one load, which ran one after the other."""
        timings = [block.server for block in blocks if block.server is not None]
        others = [block.others for block in blocks if block.others is not None]
        return replace(
            cls._summed(blocks, window=sum(block.window for block in blocks)),
            timeline=tuple(time_slice for block in blocks for time_slice in block.timeline),
            server=ServerTimings.summed(timings) if timings else None,
            others=fmean(others) if others else None,
        )

    @classmethod
    def _summed(cls, parts: Sequence["BlockResult"], window: float) -> "BlockResult":
        details: dict[str, str] = {}
        for part in reversed(parts):
            details |= part.details
        return cls(
            target=parts[0].target,
            load=parts[0].load,
            window=window,
            answered_in_window=sum(part.answered_in_window for part in parts),
            warm_up_queries=sum(part.warm_up_queries for part in parts),
            statuses=sum((part.statuses for part in parts), Counter()),
            details=details,
            latency=DurationHistogram.merged(part.latency for part in parts),
            service=DurationHistogram.merged(part.service for part in parts),
            lateness=DurationHistogram.merged(part.lateness for part in parts),
            delayed=sum(part.delayed for part in parts),
            finished=all(part.finished for part in parts),
            generator_cpu=max(part.generator_cpu for part in parts),
            generator_busy=max(part.generator_busy for part in parts),
            cpu_share=fmean(part.cpu_share for part in parts),
            cpus_busy=fmean(part.cpus_busy for part in parts),
        )
