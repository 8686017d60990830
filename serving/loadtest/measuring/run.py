"""A run: one target under one load, and whether the run is VALID, that is, whether its figures can be trusted."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import PlainSerializer

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.generator.block_result import DELAYED_AFTER, OK, BlockResult
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.record import combined, shown, stored
from hangtag.serving.loadtest.statistics import early_stopping
from hangtag.serving.loadtest.statistics.duration_histogram import Counts, DurationHistogram, Values
from hangtag.serving.loadtest.statistics.intervals import Interval, of_percentile, of_rate
from hangtag.serving.loadtest.units import Figure, Remark

# With a larger share of delayed requests, the load differed from the plan.
DELAYED_SHARE = 0.05
# If the generator takes more than this share of a closed loop's latency, the latency is the generator's rather than the
# server's.
LATENCY_SHARE = 0.5
# Even a smaller share deserves a note: the generator's time is in both latencies, so their ratio looks closer to 1.
NOTED_LATENCY_SHARE = 0.2
# A generator process above this share of one CPU has hardly any time left, since Python computes on one CPU at a time.
# The same holds if its busiest thread computes, or waits for a CPU that others occupy, for this share of the time.
BUSY_GENERATOR = 0.9
# If the CPUs are busy for this share of the time, the server lacks the CPU time that a generator on its machine takes.
BUSY_CPUS = 0.9
# A generator that takes a smaller share of the CPUs changes the throughput by less than most measurements vary.
SMALL_CPU_SHARE = 0.05
# If other programs take this share of the CPUs, a server that needs all CPUs loses the same share of its throughput:
# twice as much as most measurements vary.
DOUBTFUL_SHARE = 0.1

Sentence = Annotated[Remark, PlainSerializer(str, return_type=str)]


@dataclass(frozen=True)
class Run:
    """One target under one load, over all its blocks."""

    target: str = stored("Its name.")
    load: Load = stored()
    blocks: tuple[BlockResult, ...] = stored("In the order they ran; block i of every target ran next to each other.")
    model: str = stored("The model's name on its server.", default="")
    batch_size: int = stored(default=1)
    planned_blocks: int = stored("A stopped run has fewer blocks, and is not valid.", default=1)
    percentile: float = stored("The percentile that it is judged by, for example 99.", default=99.0)
    target_latency: float | None = stored("The bound in seconds that the percentile should keep.", default=None)
    judged: bool = stored(
        "Judged by the percentile: with too few queries to judge it, the run is not valid.", default=False
    )
    restarted: bool = stored("The server restarted during the run.", default=False)
    counted_in_part: bool = stored(
        "The server's counters lack queries, as those of one of several behind an address do.", default=False
    )
    generator_ceiling: float | None = stored("Null: no longer measured.", default=None)

    @shown()
    def total(self) -> BlockResult:
        """All blocks combined."""
        return combined(BlockResult, self.blocks)

    @shown()
    def error_messages(self) -> dict[str, str]:
        """The first error message of each status other than OK."""
        return self.total.details

    def __str__(self) -> str:
        return f"{self.target}, {self.load}"

    @property
    def throughput(self) -> float:
        """Answered queries per second."""
        return self.total.throughput

    @shown()
    def samples_per_second(self) -> float:
        """Answered samples per second. A query contains batch_size samples."""
        return self.throughput * self.batch_size

    @shown("problems")
    def invalid(self) -> tuple[Sentence, ...]:
        """Why the run is not valid."""
        total = self.total
        remarks: list[Remark] = []
        figures: tuple[Figure, ...]
        if not total.finished or len(self.blocks) < self.planned_blocks:
            figures = (_count(total.queries), (total.duration, f"{total.duration:.1f}"))
            remarks.append(Remark("it ended too early, after {} queries in {} s", figures))
        if total.failed:
            failures = [(code, count) for code, count in total.statuses.most_common() if code != OK]
            codes = ", ".join(f"{{}} {code}" for code, _ in failures)
            figures = (_count(total.failed), _count(total.queries), *(_count(count) for _, count in failures))
            remarks.append(Remark(f"{{}} of {{}} calls failed ({codes})", figures))
        if self.judged and self._too_short:
            remarks.append(replace(self._too_short, words=f"it is too short: {self._too_short.words}"))
        if self.restarted:
            remarks.append(Remark("the server or the model was restarted while it was measured"))
        if self.generator_late:
            late, p99 = total.delayed_queries / total.queries, total.lateness.percentile(99) * 1e3
            words = (
                f"the generator could not keep up: {{}} of the queries left more than {DELAYED_AFTER * 1e3:g} ms late "
                "(p99 {} ms)"
            )
            remarks.append(Remark(words, ((late, f"{late:.1%}"), (p99, f"{p99:.1f}"))))
        if total.generator_latency_share > LATENCY_SHARE:
            words = (
                f"the generator took {{}} of the latency, and above {LATENCY_SHARE:.0%} the latency is the "
                "generator's own"
            )
            remarks.append(Remark(words, (_share(total.generator_latency_share),)))
        return tuple(remarks)

    @shown()
    def valid(self) -> bool:
        """Whether the figures of the run can be trusted."""
        return not self.invalid

    @property
    def generator_late(self) -> bool:
        """Whether too many queries of an open loop were delayed, so that the latencies are the generator's."""
        return isinstance(self.load, OpenLoop) and self.total.delayed_queries > DELAYED_SHARE * self.total.queries

    @property
    def lateness_note(self) -> str:
        """How late an open loop's queries left, and the service time; empty for a closed loop, which is never late."""
        total = self.total
        if not isinstance(self.load, OpenLoop):
            return ""
        late, p50, p99 = map(
            units.duration,
            (total.lateness.percentile(99), total.service_time.percentile(50), total.service_time.percentile(99)),
        )
        return (
            f"sent up to {late} late (p99), {total.delayed_queries:,} of {total.queries:,} delayed; "
            f"from the actual send p50 {p50}, p99 {p99}"
        )

    @shown()
    def notes(self) -> tuple[Sentence, ...]:
        """What a reader should know about a valid run."""
        remarks = []
        if self.counted_in_part:
            words = (
                "the server's own times are left out, because its counters lack answered queries: several servers may "
                "share its address, or the model may have been reloaded"
            )
            remarks.append(Remark(words))
        if self._too_short and not self.judged:
            remarks.append(self._too_short)
        if NOTED_LATENCY_SHARE < self.total.generator_latency_share <= LATENCY_SHARE:
            remarks.append(
                Remark("the generator took {} of the latency", (_share(self.total.generator_latency_share),))
            )
        if self.generator_limited:
            what, busy = self._generator_load
            words = f"the generator was the bottleneck (its busiest {what}): the server may be faster than this; "
            remarks.append(Remark(words + "more processes send more", (busy,)))
        elif self.generator_slows_server:
            total = self.total
            faster = total.cpus_busy / max(total.cpus_busy - total.generator_cpu_share, 1e-9)
            words = (
                "the generator was a limit too: it took {} of the CPUs that it shared with the server, and these "
                "were busy {} of the time, so without the generator the server may be up to {} times as fast"
            )
            figures = (_share(total.generator_cpu_share), _share(total.cpus_busy), (faster, units.ratio(faster)))
            remarks.append(Remark(words, figures))
        return tuple(remarks)

    @shown()
    def doubt(self) -> Sentence | None:
        """Why the figures, valid or not, are doubtful: other programs took much of the CPUs."""
        others = self.total.others_cpu_share
        if others is None or others < DOUBTFUL_SHARE:
            return None
        return Remark("other programs took {} of this machine's CPUs meanwhile", (_share(others),))

    @property
    def _too_short(self) -> Remark | None:
        needed = early_stopping.samples_needed(0, self.percentile)
        if self.total.queries >= needed:
            return None
        # A judged run needs enough queries from the start, so only --max-duration can have ended it.
        setting = "--max-duration" if self.judged else "--min-query-count"
        words = (
            f"{{}} queries are too few to judge a p{self.percentile:g} with 99 % confidence: judging it takes "
            f"{needed:,}, so raise {setting}"
        )
        return Remark(words, (_count(self.total.queries),))

    @property
    def generator_limited(self) -> bool:
        """Whether the generator, rather than the server, limited the throughput of a closed loop."""
        if not isinstance(self.load, ClosedLoop):
            return False
        return max(self.total.generator_cpu, self.total.generator_busy) > BUSY_GENERATOR

    @property
    def generator_slows_server(self) -> bool:
        """Whether, in a closed loop, the generator took CPU time that a server on the same machine would have used."""
        if not isinstance(self.load, ClosedLoop):
            return False
        return self.total.cpus_busy >= BUSY_CPUS and self.total.generator_cpu_share >= SMALL_CPU_SHARE

    @shown()
    def limited_by_generator(self) -> bool:
        """Whether a generator that takes less CPU time might measure a higher throughput; the notes say why."""
        return self.generator_limited or self.generator_slows_server

    @property
    def _generator_load(self) -> tuple[str, Figure]:
        """What the generator did, as a text with a placeholder for the share, and the share."""
        if self.total.generator_cpu > BUSY_GENERATOR:
            return "process used {} of a CPU", _share(self.total.generator_cpu)
        return "thread computed, or waited for a CPU, {} of the time", _share(self.total.generator_busy)

    def over(self, bound: float) -> int:
        """The number of queries that took longer than `bound` seconds, or failed."""
        counts = self.total.latency.counts()
        return int(counts[self.total.latency.values() > bound].sum()) + self.total.failed

    @shown()
    def keeps_target(self) -> bool | None:
        """Whether the percentile keeps the target latency, with 99 % confidence; null without a target latency, or with
        too few queries."""
        allowed = early_stopping.over_allowed(self.total.queries, self.percentile)
        return None if self.target_latency is None or allowed < 0 else self.over(self.target_latency) <= allowed

    @property
    def keeps_bound(self) -> bool:
        """Whether the run is VALID and its percentile keeps the target latency."""
        return self.valid and bool(self.keeps_target)

    @shown()
    def percentile_bound(self) -> float | None:
        """Upper bound of the percentile, with 99 % confidence; null if there are too few queries."""
        counts = self.total.latency.counts()
        allowed = early_stopping.over_allowed(int(counts.sum()), self.percentile)
        if allowed < 0:
            return None
        above = counts.sum() - np.cumsum(counts)
        return float(self.total.latency.values()[np.argmax(above <= allowed)])

    @property
    def verdict(self) -> str:
        """What the run shows about the percentile, with 99 % confidence; empty unless the run is VALID and judged."""
        bound = self.percentile_bound
        if not (self.judged and self.valid) or bound is None:
            return ""
        subject = f"{self.target} at {self.load}"
        if self.target_latency is None:
            return f"{subject}: p{self.percentile:g} is at most {units.duration(bound)} (99 % confidence)."
        verb = "keeps" if self.keeps_target else "is not shown to keep"
        return f"{subject} {verb} p{self.percentile:g} within {units.duration(self.target_latency)} (99 % confidence)."

    def latency(self, q: float) -> Interval:
        """The q-th percentile of the latency in seconds, with its 95 % interval over the blocks."""
        return of_percentile(DurationHistogram.values(), self.block_latencies(), q)

    @property
    def rate(self) -> Interval:
        """The throughput with its 95 % interval over the blocks."""
        return replace(of_rate(self.block_throughputs()), estimate=self.throughput)

    def block_latencies(self) -> Counts:
        """Latency counts [blocks, buckets]; DurationHistogram.values() gives the buckets."""
        return np.stack([block.latency.counts() for block in self.blocks])

    def block_throughputs(self) -> Values:
        """Throughput [blocks] in queries per second."""
        return np.array([block.throughput for block in self.blocks])


def _count(value: int) -> Figure:
    return value, f"{value:,}"


def _share(value: float) -> Figure:
    return value, f"{value:.0%}"
