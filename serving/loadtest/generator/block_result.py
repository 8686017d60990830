"""What one block of queries measured, and how parts of it become one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hangtag.serving.loadtest.plan.load import Limits, Load
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings

OK = "OK"


@dataclass(frozen=True)
class Slice:
    """A short stretch of a block: the latencies of the answers that arrived in it, and how many calls failed."""

    start: float  # Seconds: in a part from the end of the warm-up, in a run from the start of the test.
    length: float
    latency: DurationHistogram
    failed: int = 0


@dataclass(frozen=True)
class BlockResult:
    """What one block of queries measured, or several merged. Durations in seconds.

    Latency counts from the planned send time, service time from the actual one. In a closed loop a query is planned
    for the moment its slot falls free, so the two agree. Only answered queries (status OK) have durations.
    """

    target: str
    load: Load
    window: float  # From the end of the warm-up until nothing more was sent.
    answered_in_window: int  # OK answers that arrived within it, those to queries of the warm-up included.
    warm_up_queries: int  # Discarded.
    statuses: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)  # The first message that came with each status but OK.
    latency: DurationHistogram = field(default_factory=DurationHistogram)
    service: DurationHistogram = field(default_factory=DurationHistogram)
    lateness: DurationHistogram = field(
        default_factory=DurationHistogram
    )  # Actual minus planned send time, of every query.
    delayed: int = 0  # Sent too late: see recorder.DELAYED_AFTER.
    finished: bool = True  # Both minima were reached, and nobody stopped it.
    timeline: tuple[Slice, ...] = ()
    generator_cpu: float = 0.0  # CPUs that the busiest process of the generator used, on average.
    # The share of the time for which the busiest thread of the generator computed, or waited for a CPU.
    generator_busy: float = 0.0
    server: ServerTimings | None = None  # What the server says of the time in between, where it keeps statistics.

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
    def from_processes(cls, parts: Sequence["BlockResult"], limits: Limits) -> "BlockResult":
        """What several processes measured of one block at the same time. `limits` are those of the whole block."""
        whole = cls._summed(parts, window=max(part.window for part in parts))
        slices: dict[float, list[Slice]] = {}
        for part in parts:
            for one in part.timeline:
                slices.setdefault(one.start, []).append(one)
        return replace(
            whole,
            finished=whole.finished and limits.reached(whole.window, whole.queries),
            timeline=tuple(
                Slice(
                    start,
                    same[0].length,
                    DurationHistogram.merged(s.latency for s in same),
                    sum(s.failed for s in same),
                )
                for start, same in sorted(slices.items())
            ),
        )

    @classmethod
    def from_blocks(cls, blocks: Sequence["BlockResult"]) -> "BlockResult":
        """The blocks of one target under one load, which ran one after the other, as one."""
        timings = [block.server for block in blocks if block.server is not None]
        return replace(
            cls._summed(blocks, window=sum(block.window for block in blocks)),
            timeline=tuple(one for block in blocks for one in block.timeline),
            server=ServerTimings.summed(timings) if timings else None,
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
        )
