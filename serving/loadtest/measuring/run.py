"""One target under one load, and whether what was measured means what it says."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.generator.block_result import OK, BlockResult
from hangtag.serving.loadtest.generator.recorder import DELAYED_AFTER
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.statistics import early_stopping
from hangtag.serving.loadtest.statistics.percentiles import Counts, Values

# More delayed requests than this share, and the load was not the one that was asked for.
DELAYED_SHARE = 0.05
# From this share of one CPU on a process of the generator has hardly any time left: Python computes on one at a time.
# Nor has one whose busiest thread waits for a CPU in the rest of the time, where the server or others have it.
BUSY_GENERATOR = 0.9


@dataclass(frozen=True)
class Run:
    """One target under one load, over all its blocks."""

    blocks: tuple[BlockResult, ...]
    batch_size: int
    planned_blocks: int = 1  # Fewer took place when it was stopped: then it is not VALID.
    percentile: float = 99.0  # What it is judged by.
    target_latency: float | None = None  # The bound (seconds) that the percentile should keep.
    judged: bool = False  # By that percentile: then it has to be long enough to tell it.
    restarted: bool = False  # The server's counters began anew in between.
    ceiling: float | None = None  # What the generator reached at this load against a server that does nothing.

    @cached_property
    def total(self) -> BlockResult:
        """The blocks merged."""
        return BlockResult.from_blocks(list(self.blocks))

    @property
    def target(self) -> str:
        """The target's name."""
        return self.blocks[0].target

    @property
    def load(self) -> Load:
        """What it was put under."""
        return self.blocks[0].load

    @property
    def throughput(self) -> float:
        """Answered queries a second."""
        return self.total.throughput

    @property
    def samples_per_second(self) -> float:
        """Samples a second: a query holds batch_size of them."""
        return self.throughput * self.batch_size

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Why the run is INVALID, a sentence each; empty for a VALID one."""
        total = self.total
        found = []
        if not total.finished or len(self.blocks) < self.planned_blocks:
            found.append(f"it ended too early, after {total.queries:,} queries in {total.window:.1f} s")
        if total.failed:
            codes = ", ".join(f"{count:,} {code}" for code, count in total.statuses.most_common() if code != OK)
            found.append(f"{total.failed:,} of {total.queries:,} calls failed ({codes})")
        if self.judged and self._too_short:
            found.append(f"it is too short: {self._too_short}")
        if self.restarted:
            found.append("the server or the model was restarted while it was measured")
        if self.generator_late:
            found.append(
                f"the generator could not keep up: {total.delayed / total.queries:.1%} of the queries left more than "
                f"{DELAYED_AFTER * 1e3:g} ms late (p99 {total.lateness.percentile(99) * 1e3:.1f} ms)"
            )
        return tuple(found)

    @property
    def valid(self) -> bool:
        """Whether its numbers mean what they say."""
        return not self.problems

    @property
    def generator_late(self) -> bool:
        """Whether so many queries of an open loop left late that its latencies would be the generator's own."""
        return isinstance(self.load, OpenLoop) and self.total.delayed > DELAYED_SHARE * self.total.queries

    @property
    def sending(self) -> str:
        """How late an open loop's queries left, and their latency without that; empty for a closed loop, whose queries
        are planned for when they leave."""
        total = self.total
        if not isinstance(self.load, OpenLoop):
            return ""
        late, p50, p99 = map(
            units.duration, (total.lateness.percentile(99), total.service.percentile(50), total.service.percentile(99))
        )
        return (
            f"sent up to {late} late (p99), {total.delayed:,} of {total.queries:,} delayed; "
            f"from the actual send p50 {p50}, p99 {p99}"
        )

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of a VALID run, a sentence each."""
        found = []
        if self._too_short and not self.judged:
            found.append(self._too_short)
        if self.generator_limited:
            found.append(
                f"the generator was the bottleneck ({self._generator_says}): the server may be faster than this; "
                "more processes send more"
            )
        return tuple(found)

    @property
    def _too_short(self) -> str:
        needed = early_stopping.samples_needed(0, self.percentile)
        if self.total.queries >= needed:
            return ""
        raised = "max_duration" if self.judged else "min_query_count"  # A judged one ends early for no other reason.
        return (
            f"{self.total.queries:,} queries are too few to tell a p{self.percentile:g} with 99 % confidence: that "
            f"takes {needed:,}, so raise {raised}"
        )

    @property
    def generator_limited(self) -> bool:
        """Whether the generator, rather than the server, set the throughput of a closed loop."""
        if not isinstance(self.load, ClosedLoop):
            return False
        if self.ceiling is not None:
            return self.throughput > BUSY_GENERATOR * self.ceiling
        return max(self.total.generator_cpu, self.total.generator_busy) > BUSY_GENERATOR

    @property
    def _generator_says(self) -> str:
        if self.ceiling is not None:
            return f"its ceiling at {self.load} is {units.three_digits(self.ceiling)} calls/s"
        if self.total.generator_cpu > BUSY_GENERATOR:
            return f"its busiest process used {self.total.generator_cpu:.0%} of a CPU"
        return f"its busiest thread computed, or waited for a CPU, {self.total.generator_busy:.0%} of the time"

    def over(self, bound: float) -> int:
        """How many queries took longer than `bound` (seconds), or failed."""
        counts = self.total.latency.counts()
        return int(counts[self.total.latency.values() > bound].sum()) + self.total.failed

    @property
    def keeps_target(self) -> bool | None:
        """Whether the percentile keeps the target latency, with early stopping's confidence.

        None without a target, and when the queries are too few to tell.
        """
        if self.target_latency is None or early_stopping.over_allowed(self.total.queries, self.percentile) < 0:
            return None
        return early_stopping.keeps(self.total.queries, self.over(self.target_latency), self.percentile)

    @property
    def keeps_bound(self) -> bool:
        """Whether it is VALID, and its percentile keeps the target latency."""
        return self.valid and bool(self.keeps_target)

    @property
    def percentile_bound(self) -> float:
        """The latency (seconds) that the judged percentile does not exceed, with 99 % confidence; NaN when the queries
        are too few to tell."""
        counts = self.total.latency.counts()
        allowed = early_stopping.over_allowed(int(counts.sum()), self.percentile)
        if allowed < 0:
            return float("nan")
        above = counts.sum() - np.cumsum(counts)
        return float(self.total.latency.values()[np.argmax(above <= allowed)])

    @property
    def verdict(self) -> str:
        """What the percentile that it is judged by says, with 99 % confidence; empty where nothing is asked of it, or
        nothing can be said."""
        bound = self.percentile_bound
        if not (self.judged and self.valid) or np.isnan(bound):
            return ""
        subject = f"{self.target} at {self.load}"
        if self.target_latency is None:
            return f"{subject}: p{self.percentile:g} is at most {units.duration(bound)} (99 % confidence)."
        kept = "keeps" if self.keeps_target else "is not shown to keep"
        return f"{subject} {kept} p{self.percentile:g} within {units.duration(self.target_latency)} (99 % confidence)."

    def block_latencies(self) -> Counts:
        """Latency counts [blocks, values] over DurationHistogram.values()."""
        return np.stack([block.latency.counts() for block in self.blocks])

    def block_throughputs(self) -> Values:
        """Throughput [blocks] in queries a second."""
        return np.array([block.throughput for block in self.blocks])
