"""Decides whether a run (one target under one load) is VALID, so that the figures of the run can be trusted."""

from dataclasses import dataclass

import numpy as np

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.generator.block_result import DELAYED_AFTER, OK, BlockResult
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.record import combined, shown, stored
from hangtag.serving.loadtest.statistics.intervals import Sections, over_allowed, samples_needed

# If a larger share of the requests is delayed, the load differed too much from the plan.
DELAYED_SHARE = 0.05
# If the generator takes more than this share of a closed loop's latency, the latency says more about the generator than
# about the server.
LATENCY_SHARE = 0.5
# If the generator takes more than this share of the latency, the report has a note: the generator's time is part of
# every target's latency, which moves the ratio of two latencies closer to 1.
NOTED_LATENCY_SHARE = 0.2
# A generator process is almost saturated above this share of one CPU, because Python computes on one CPU at a time. It
# is also almost saturated if its busiest thread computes, or waits for a CPU, for more than this share of the time.
BUSY_GENERATOR = 0.9
# If the CPUs are busy for this share of the time, a generator on the server's machine takes CPU time that the server
# needs.
BUSY_CPUS = 0.9
# If the generator takes less than this share of the CPUs, its effect on the throughput is smaller than the usual
# difference between two measurements.
SMALL_CPU_SHARE = 0.05
# If other programs take this share of the CPU time, a server that needs all CPUs loses the same share of throughput.
# Such a loss is twice the usual difference between two measurements.
DOUBTFUL_SHARE = 0.1


@dataclass(frozen=True)
class Run:
    """The results of one target under one load, over all blocks."""

    target: str = stored("The target's name.")
    load: Load = stored()
    blocks: tuple[BlockResult, ...] = stored("Blocks with the same index, one per target, ran one after another.")
    model: str = stored("The model's name on the server.", default="")
    batch_size: int = stored(default=1)
    planned_blocks: int = stored("The planned number of blocks. A run with fewer blocks is INVALID.", default=1)
    percentile: float = stored("The percentile that must meet the target latency, such as 99.", default=99.0)
    target_latency: float | None = stored("The latency in seconds that the percentile must meet.", default=None)
    judged: bool = stored("Whether too few queries for the percentile make the run INVALID.", default=False)
    restarted: bool = stored("Whether the server restarted during the run.", default=False)
    counted_in_part: bool = stored("Whether the server counted fewer queries than were answered.", default=False)
    generator_ceiling: float | None = stored("Always null, because it is no longer measured.", default=None)

    @shown()
    def total(self) -> BlockResult:
        """The results of all blocks combined."""
        return combined(BlockResult, self.blocks)

    @shown()
    def error_messages(self) -> dict[str, str]:
        """The first error message of each status other than OK."""
        return self.total.details

    def __str__(self) -> str:
        return f"{self.target}, {self.load}"

    @property
    def throughput(self) -> float:
        return self.total.throughput

    @shown()
    def samples_per_second(self) -> float:
        """The answered samples per second. A query contains batch_size samples."""
        return self.throughput * self.batch_size

    @shown("problems")
    def invalid(self) -> tuple[str, ...]:
        """The reasons why the run is INVALID."""
        total, reasons = self.total, []
        if not total.finished or len(self.blocks) < self.planned_blocks:
            reasons.append(f"it ended too early, after {total.queries:,} queries in {total.duration:.1f} s")
        if total.failed:
            codes = ", ".join(f"{count:,} {code}" for code, count in total.statuses.most_common() if code != OK)
            reasons.append(f"{total.failed:,} of {total.queries:,} calls failed ({codes})")
        if self.judged and self._too_short:
            reasons.append(f"it is too short: {self._too_short}")
        if self.restarted:
            reasons.append("the server or the model was restarted during the run")
        if self.generator_late:
            late, p99 = total.delayed_queries / total.queries, total.lateness.percentile(99) * 1e3
            reasons.append(
                f"the generator could not keep up: {late:.1%} of the queries left more than {DELAYED_AFTER * 1e3:g} ms "
                f"late (p99 {p99:.1f} ms)"
            )
        if total.generator_latency_share > LATENCY_SHARE:
            reasons.append(
                f"the generator took {total.generator_latency_share:.0%} of the latency; above {LATENCY_SHARE:.0%}, "
                "the latency says more about the generator than about the server"
            )
        return tuple(reasons)

    @shown()
    def valid(self) -> bool:
        """Whether the figures of the run can be trusted."""
        return not self.invalid

    @property
    def generator_late(self) -> bool:
        """Whether too many queries of an open loop were delayed, so that the generator determined the latencies."""
        return isinstance(self.load, OpenLoop) and self.total.delayed_queries > DELAYED_SHARE * self.total.queries

    @property
    def lateness_note(self) -> str:
        """A note about an open loop's service time, and how late its queries were sent; empty for a closed loop."""
        total = self.total
        if not isinstance(self.load, OpenLoop):
            return ""
        p50, p99 = (units.duration(total.service_time.percentile(q)) for q in (50, 99))
        return (
            f"sent up to {units.duration(total.lateness.percentile(99))} late (p99), {total.delayed_queries:,} of "
            f"{total.queries:,} delayed; service time p50 {p50}, p99 {p99}"
        )

    @shown()
    def notes(self) -> tuple[str, ...]:
        """Notes about the run that do not make it INVALID."""
        total, notes = self.total, []
        if self.counted_in_part:
            notes.append(
                "the server's own times are left out, because the server counted fewer queries than were answered; "
                "several servers may share the address, or the model may have been reloaded"
            )
        if self._too_short and not self.judged:
            notes.append(self._too_short)
        if NOTED_LATENCY_SHARE < total.generator_latency_share <= LATENCY_SHARE:
            notes.append(f"the generator took more than {NOTED_LATENCY_SHARE:.0%} of the latency")
        if self.generator_limited:
            notes.append(
                "the generator was the bottleneck (its busiest process or thread was busy for more than "
                f"{BUSY_GENERATOR:.0%} of the time), so the server may be faster than measured; more generator "
                "processes (--processes) can send more queries"
            )
        elif self.generator_slows_server:
            faster = total.cpus_busy / max(total.cpus_busy - total.generator_cpu_share, 1e-9)
            notes.append(
                f"the generator reduced the throughput: it used {total.generator_cpu_share:.0%} of the CPUs that "
                f"it shared with the server, and these CPUs were {total.cpus_busy:.0%} busy; with the generator on "
                f"another machine, the server may be up to {units.ratio(faster)} times as fast"
            )
        return tuple(notes)

    @shown()
    def doubt(self) -> str | None:
        """Why the figures are doubtful, if other programs took too much CPU time; otherwise null."""
        others = self.total.others_cpu_share
        if others is None or others < DOUBTFUL_SHARE:
            return None
        return f"other programs took {DOUBTFUL_SHARE:.0%} or more of this machine's CPUs during the run"

    @property
    def _too_short(self) -> str:
        """A note that there are too few queries to judge the percentile; empty if there are enough."""
        needed = samples_needed(0, self.percentile)
        if self.total.queries >= needed:
            return ""
        # If `judged` is set, a run sends enough queries to judge the percentile, unless --max-duration ends it earlier.
        setting = "--max-duration" if self.judged else "--min-query-count"
        return (
            f"too few queries to judge a p{self.percentile:g} with 99 % confidence, which needs {needed:,} "
            f"queries: raise {setting}"
        )

    @property
    def generator_limited(self) -> bool:
        """Whether the generator, rather than the server, limited the throughput of a closed loop."""
        busy = max(self.total.generator_cpu, self.total.generator_busy)
        return isinstance(self.load, ClosedLoop) and busy > BUSY_GENERATOR

    @property
    def generator_slows_server(self) -> bool:
        """Whether the generator of a closed loop took CPU time that a server on the same machine would have used."""
        are_short = self.total.cpus_busy >= BUSY_CPUS and self.total.generator_cpu_share >= SMALL_CPU_SHARE
        return isinstance(self.load, ClosedLoop) and are_short

    @shown()
    def limited_by_generator(self) -> bool:
        """Whether a generator that takes less CPU time might measure a higher throughput. The run's notes give the
        reason."""
        return self.generator_limited or self.generator_slows_server

    @shown()
    def keeps_target(self) -> bool | None:
        """Whether the percentile meets the target latency, with 99 % confidence; null if there is no target latency, or
        if there are too few queries."""
        allowed = over_allowed(self.total.queries, self.percentile)
        if self.target_latency is None or allowed < 0:
            return None
        latency = self.total.latency
        return int(latency.counts[latency.values > self.target_latency].sum()) + self.total.failed <= allowed

    @shown()
    def percentile_bound(self) -> float | None:
        """The upper bound of the percentile in seconds, with 99 % confidence; null if there are too few queries."""
        counts = self.total.latency.counts
        allowed = over_allowed(int(counts.sum()), self.percentile)
        if allowed < 0:
            return None
        above = counts.sum() - np.cumsum(counts)
        return float(self.total.latency.values[np.argmax(above <= allowed)])

    @property
    def verdict(self) -> str:
        """A sentence about the percentile's bound at 99 % confidence; empty unless the run is VALID and `judged`."""
        bound = self.percentile_bound
        if not (self.judged and self.valid) or bound is None:
            return ""
        subject = f"{self.target} at {self.load}"
        if self.target_latency is None:
            return f"{subject}: p{self.percentile:g} is at most {units.duration(bound)} (99 % confidence)."
        verb = "keeps" if self.keeps_target else "is not proven to keep"
        return f"{subject} {verb} p{self.percentile:g} within {units.duration(self.target_latency)} (99 % confidence)."

    def latency(self, q: float) -> Sections:
        """Return the q-th percentile of the latency in seconds."""
        blocks = np.array([block.latency.percentile(q) for block in self.blocks])
        return Sections(self.total.latency.percentile(q), blocks)

    @property
    def rate(self) -> Sections:
        return Sections(self.throughput, np.array([block.throughput for block in self.blocks]))
