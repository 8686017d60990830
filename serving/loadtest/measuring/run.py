"""A run: one target under one load, and whether it is VALID, that is, whether its figures mean what they say."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.generator.block_result import DELAYED_AFTER, OK, BlockResult
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.statistics import early_stopping
from hangtag.serving.loadtest.statistics.percentiles import Counts, Values

# With a larger share of delayed requests, the load was not the planned one.
DELAYED_SHARE = 0.05
# A generator process above this share of one CPU has hardly any time left, since Python computes on one CPU at a time.
# The same holds for one whose busiest thread waits for a CPU that the server or others occupy.
BUSY_GENERATOR = 0.9
# On CPUs that are busy for so much of the time, the server lacks what the generator beside it takes.
BUSY_CPUS = 0.9
# A generator that takes less of them changes the throughput by less than most measurements vary.
SMALL_CPU_SHARE = 0.05
# Where other programs take this share of the CPUs, a server that needs all of them loses as much throughput: twice of
# what most measurements vary by.
DOUBTFUL_SHARE = 0.1


@dataclass(frozen=True)
class Run:
    """One target under one load, over all its blocks."""

    blocks: tuple[BlockResult, ...]
    batch_size: int
    planned_blocks: int = 1  # A stopped run has fewer blocks, and is INVALID.
    percentile: float = 99.0  # The percentile that the run is judged by.
    target_latency: float | None = None  # The bound in seconds that the percentile should keep.
    judged: bool = False  # Whether the run must be long enough to tell the percentile.
    restarted: bool = False  # Whether the server restarted during the run.
    counted_in_part: bool = False  # Whether the server's counters lack queries, as those of one of several servers do.
    ceiling: float | None = None  # Queries per second that the generator reaches on the null server.

    @cached_property
    def total(self) -> BlockResult:
        """All blocks combined."""
        return BlockResult.from_blocks(list(self.blocks))

    @property
    def target(self) -> str:
        """The target's name."""
        return self.blocks[0].target

    @property
    def load(self) -> Load:
        """The run's load."""
        return self.blocks[0].load

    @property
    def throughput(self) -> float:
        """Answered queries per second."""
        return self.total.throughput

    @property
    def samples_per_second(self) -> float:
        """Answered samples per second; a query holds batch_size samples."""
        return self.throughput * self.batch_size

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Why the run is INVALID, a sentence each; empty for a VALID run."""
        total = self.total
        sentences = []
        if not total.finished or len(self.blocks) < self.planned_blocks:
            sentences.append(f"it ended too early, after {total.queries:,} queries in {total.window:.1f} s")
        if total.failed:
            codes = ", ".join(f"{count:,} {code}" for code, count in total.statuses.most_common() if code != OK)
            sentences.append(f"{total.failed:,} of {total.queries:,} calls failed ({codes})")
        if self.judged and self._too_short:
            sentences.append(f"it is too short: {self._too_short}")
        if self.restarted:
            sentences.append("the server or the model was restarted while it was measured")
        if self.generator_late:
            sentences.append(
                f"the generator could not keep up: {total.delayed / total.queries:.1%} of the queries left more than "
                f"{DELAYED_AFTER * 1e3:g} ms late (p99 {total.lateness.percentile(99) * 1e3:.1f} ms)"
            )
        return tuple(sentences)

    @property
    def valid(self) -> bool:
        """Whether the run has no problems."""
        return not self.problems

    @property
    def generator_late(self) -> bool:
        """Whether so many queries of an open loop were delayed that the latencies are the generator's own."""
        return isinstance(self.load, OpenLoop) and self.total.delayed > DELAYED_SHARE * self.total.queries

    @property
    def lateness_note(self) -> str:
        """How late an open loop's queries left, and the service time; empty for a closed loop, which is never late."""
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
        sentences = []
        if self.counted_in_part:
            sentences.append(
                "the server's own times are left out, because its counters lack queries that were answered: several "
                "servers may be behind its address, or the model was loaded anew"
            )
        if self._too_short and not self.judged:
            sentences.append(self._too_short)
        if self.generator_limited:
            sentences.append(
                f"the generator was the bottleneck ({self._generator_load}): the server may be faster than this; "
                "more processes send more"
            )
        elif self.generator_slows_server:
            total = self.total
            faster = total.cpus_busy / max(total.cpus_busy - total.cpu_share, 1e-9)
            sentences.append(
                f"the generator was a limit too: it took {total.cpu_share:.0%} of the CPUs that it shared with the "
                f"server, which were busy {total.cpus_busy:.0%} of the time, so the server alone may be up to "
                f"{units.ratio(faster)} times as fast"
            )
        return tuple(sentences)

    @property
    def doubt(self) -> str:
        """Why the run's figures are doubtful although it may be VALID; empty if they are not."""
        others = self.total.others
        if others is None or others < DOUBTFUL_SHARE:
            return ""
        return f"other programs took {others:.0%} of this machine's CPUs meanwhile"

    @property
    def _too_short(self) -> str:
        needed = early_stopping.samples_needed(0, self.percentile)
        if self.total.queries >= needed:
            return ""
        # A judged run needs enough queries from the start, so only --max-duration can have ended it.
        setting = "--max-duration" if self.judged else "--min-query-count"
        return (
            f"{self.total.queries:,} queries are too few to tell a p{self.percentile:g} with 99 % confidence: that "
            f"takes {needed:,}, so raise {setting}"
        )

    @property
    def generator_limited(self) -> bool:
        """Whether the generator, rather than the server, limited the throughput of a closed loop."""
        if not isinstance(self.load, ClosedLoop):
            return False
        if self.ceiling is not None:
            return self.throughput > BUSY_GENERATOR * self.ceiling
        return max(self.total.generator_cpu, self.total.generator_busy) > BUSY_GENERATOR

    @property
    def generator_slows_server(self) -> bool:
        """Whether the generator took CPU time that the server beside it would have used, in a closed loop."""
        if not isinstance(self.load, ClosedLoop):
            return False
        return self.total.cpus_busy >= BUSY_CPUS and self.total.cpu_share >= SMALL_CPU_SHARE

    @property
    def limited_by_generator(self) -> bool:
        """Whether another generator may see a higher throughput, for either of the two reasons above."""
        return self.generator_limited or self.generator_slows_server

    @property
    def _generator_load(self) -> str:
        if self.ceiling is not None:
            return f"its ceiling at {self.load} is {units.three_digits(self.ceiling)} calls/s"
        if self.total.generator_cpu > BUSY_GENERATOR:
            return f"its busiest process used {self.total.generator_cpu:.0%} of a CPU"
        return f"its busiest thread computed, or waited for a CPU, {self.total.generator_busy:.0%} of the time"

    def over(self, bound: float) -> int:
        """The number of queries that took longer than `bound` seconds, or failed."""
        counts = self.total.latency.counts()
        return int(counts[self.total.latency.values() > bound].sum()) + self.total.failed

    @property
    def keeps_target(self) -> bool | None:
        """Whether the percentile keeps the target latency, with early stopping's confidence of 99 %.

        None without a target latency, or with too few queries to tell.
        """
        if self.target_latency is None or early_stopping.over_allowed(self.total.queries, self.percentile) < 0:
            return None
        return early_stopping.keeps(self.total.queries, self.over(self.target_latency), self.percentile)

    @property
    def keeps_bound(self) -> bool:
        """Whether the run is VALID and its percentile keeps the target latency."""
        return self.valid and bool(self.keeps_target)

    @property
    def percentile_bound(self) -> float:
        """The latency in seconds that the percentile does not exceed, with 99 % confidence.

        NaN with too few queries to tell.
        """
        counts = self.total.latency.counts()
        allowed = early_stopping.over_allowed(int(counts.sum()), self.percentile)
        if allowed < 0:
            return float("nan")
        above = counts.sum() - np.cumsum(counts)
        return float(self.total.latency.values()[np.argmax(above <= allowed)])

    @property
    def verdict(self) -> str:
        """What is shown of the percentile, with 99 % confidence; empty for a run that is not judged, or cannot be."""
        bound = self.percentile_bound
        if not (self.judged and self.valid) or np.isnan(bound):
            return ""
        subject = f"{self.target} at {self.load}"
        if self.target_latency is None:
            return f"{subject}: p{self.percentile:g} is at most {units.duration(bound)} (99 % confidence)."
        verb = "keeps" if self.keeps_target else "is not shown to keep"
        return f"{subject} {verb} p{self.percentile:g} within {units.duration(self.target_latency)} (99 % confidence)."

    def block_latencies(self) -> Counts:
        """Latency counts [blocks, buckets]; DurationHistogram.values() gives the buckets."""
        return np.stack([block.latency.counts() for block in self.blocks])

    def block_throughputs(self) -> Values:
        """Throughput [blocks] in queries per second."""
        return np.array([block.throughput for block in self.blocks])
