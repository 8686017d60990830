"""Runs the blocks of a load test, interleaved between targets, so that drift of the machine affects all equally."""

import math
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import psutil

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.generator.block_result import OK, BlockResult, TimeSlice
from hangtag.serving.loadtest.generator.channels import clock
from hangtag.serving.loadtest.generator.generator_process import GeneratorProcesses
from hangtag.serving.loadtest.machine_check import OtherPrograms
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.plan.load import Block, Load, random_generator, sort_key
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.statistics.durations import ServerTimings

# Counters that grew by less than this share of the answered queries belong to a server that answered only some of them.
# The share is below 1, because a server may send its last answers before it counts them.
COUNTED_SHARE = 0.9
# The counters may also include this many queries of other clients.
OTHERS = 16
UNREACHABLE, WARM_UP = "UNAVAILABLE", "warm-up"  # The status of a warm-up query is not recorded.
# If the counters do not match the queries, they are read this many times again, to find out whether several servers
# answer.
MORE_READINGS = 16


@dataclass
class ServerCounts:
    """Reads the counters of a target's server before and after each of the target's blocks.

    The counters of a single server only grow, until the server or the model restarts. Behind a load balancer, each
    reading may come from a different server, or all readings may come from one server that receives only some of the
    queries. Such counters show neither timings nor restarts, so the target is put into `counted_in_part`.
    """

    # Takes a target's name, and returns the current counters of the target's server; None if there are none.
    read: Callable[[str], ServerTimings | None]
    counted_in_part: set[str] = field(default_factory=set)
    restarted: set[tuple[Load, str]] = field(default_factory=set)
    _last: dict[str, ServerTimings] = field(default_factory=dict)
    # Target -> the statuses of the queries that have ended since the counters were last read successfully.
    _ended: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def update(self, block: Block, statuses: Counter[str]) -> ServerTimings | None:
        """Read the counters of a block's target, and return their increase since the previous call; None if unknown.
        `statuses` are the statuses of the target's queries since the previous call."""
        target = block.target
        last, ended = self._last.get(target), self._ended[target]
        is_current = not ended  # Otherwise the previous reading failed, and the increase covers several blocks.
        ended.update(statuses)
        counters = None if target in self.counted_in_part else self.read(target)
        if counters is None:
            return None
        growth = counters.since(last) if last else None
        few = COUNTED_SHARE * ended[OK]
        many = ended.total() / COUNTED_SHARE + OTHERS if ended else math.inf
        if last and (growth is None or not few <= growth.count <= many):
            for _ in range(MORE_READINGS):
                again = self.read(target)
                if again is None:
                    break
                # If the counters fall from one reading to the next, two servers answered.
                if again.since(counters) is None:
                    self.counted_in_part.add(target)
                    return None
                counters = again
            growth = counters.since(last)
            # If the counters now cover all queries, they were updated late, or also count other clients' queries.
            if growth is None or growth.count < few:
                if growth is None or ended[UNREACHABLE]:
                    self.restarted.add((block.load, target))
                else:
                    self.counted_in_part.add(target)
                growth = None
        self._last[target] = counters
        ended.clear()
        return growth if is_current else None


def interleaved(scenario: Scenario, loads: Sequence[Load]) -> Iterator[Block]:
    """Yield the blocks of all rounds. A round has all loads in random order, and under each load all targets in
    random order. Within a round, an open loop has the same schedule for every target."""
    random, limits = random_generator(scenario.seed, "order"), scenario.limits.per_block(scenario.blocks)
    for number in range(scenario.blocks):
        for load_index in random.permutation(len(loads)):
            for target_index in random.permutation(len(scenario.targets)):
                target, load = scenario.names[target_index], loads[load_index]
                yield Block(target, load, limits, scenario.warm_up, scenario.seed, round=number)


@dataclass
class Session:
    """Runs one block at a time, and combines the blocks' results into runs. Raises LoadTestError if a generator process
    failed."""

    scenario: Scenario
    generators: GeneratorProcesses  # Has a request pool for each target.
    stop: threading.Event  # Ends the session early.
    on_progress: Callable[[str], None]
    counts: ServerCounts
    _began: float = field(default_factory=clock)
    _seconds_ahead: float = 0.0  # The minimum duration of the blocks that have not begun yet.
    _results: dict[tuple[Load, str], list[BlockResult]] = field(default_factory=dict)

    @property
    def _block_seconds(self) -> float:
        return self.scenario.warm_up + self.scenario.min_duration / self.scenario.blocks

    def run(self) -> tuple[Run, ...]:
        """Run the closed loops, then the open loops, and return the runs. After a stop, return the runs so far."""
        scenario = self.scenario
        # The number of open loops is already known, although their rates may still be unknown.
        loads = len(scenario.closed_loops) + len(scenario.open_loops(1.0))
        self._seconds_ahead = loads * len(scenario.targets) * scenario.blocks * self._block_seconds
        self._run_interleaved(scenario.closed_loops)
        self._run_interleaved(scenario.open_loops(min(self.peaks().values(), default=0.0)))
        return self.runs()

    def _run_interleaved(self, loads: tuple[Load, ...]) -> None:
        for block in interleaved(self.scenario, loads):
            if self.stop.is_set():
                return
            result = self.run_block(block)
            if result.queries:  # A block that was stopped before it measured anything is left out.
                self._results.setdefault((block.load, block.target), []).append(result)

    def run_block(self, block: Block) -> BlockResult:
        """Run one block, and return its result with the server's counts. The result is not added to the runs."""

        def report(queries: int) -> None:
            elapsed = clock() - began
            rate = units.three_digits(queries / max(elapsed - block.warm_up, 1e-9))
            left = self._seconds_ahead + max(self._block_seconds - elapsed, 0.0)
            self.on_progress(f"{block.target}, {block.load}: {rate} calls/s; {left:.0f} s left")

        self._seconds_ahead = max(self._seconds_ahead - self._block_seconds, 0.0)
        self.counts.update(block, Counter())
        began = clock()
        psutil.cpu_percent(percpu=True)  # starts the interval that the next call measures
        others = OtherPrograms(target.address for target in self.scenario.targets if target.is_loopback)
        result = self.generators.run(block, report)
        others_share = others.share()
        # The generator takes no CPU time from a server on another machine.
        usable = os.sched_getaffinity(0) if self.scenario.is_loopback else ()
        percents = [share for cpu, share in enumerate(psutil.cpu_percent(percpu=True)) if cpu in usable]
        busy = fmean(percents) / 100 if percents else 0.0
        counted = self.counts.update(block, result.statuses + Counter({WARM_UP: result.warm_up_queries}))
        start, latency = began - self._began + block.warm_up, result.latency
        p50, p99 = latency.percentile(50), latency.percentile(99)
        part = TimeSlice(start, result.duration, len(latency), result.failed, p50, p99, latency.maximum)
        return replace(result, timeline=(part,), server=counted, cpus_busy=busy, others_cpu_share=others_share)

    def as_run(self, target: str, load: Load, blocks: list[BlockResult], planned_blocks: int) -> Run:
        """Combine blocks of one target under one load into a run."""
        counted_in_part = target in self.counts.counted_in_part
        if counted_in_part:  # in some blocks, the count may equal the number of queries by chance
            blocks = [replace(block, server=None) for block in blocks]
        return Run(
            target=target,
            load=load,
            blocks=tuple(blocks),
            model=next(each.model for each in self.scenario.targets if each.name == target),
            batch_size=self.scenario.batch_size,
            planned_blocks=planned_blocks,
            percentile=self.scenario.percentile,
            target_latency=self.scenario.target_latency,
            judged=self.scenario.judged,
            restarted=(load, target) in self.counts.restarted and not counted_in_part,
            counted_in_part=counted_in_part,
        )

    def runs(self) -> tuple[Run, ...]:
        """Return the results so far, sorted by load and then by target."""
        return tuple(
            self.as_run(target, load, blocks, self.scenario.blocks)
            for load in sorted({load for load, _ in self._results}, key=sort_key)
            for target in self.scenario.names
            if (blocks := self._results.get((load, target)))
        )

    def peaks(self) -> dict[str, float]:
        """Return the highest throughput of each target so far, in queries per second."""
        runs = self.runs()
        return {run.target: max(each.throughput for each in runs if each.target == run.target) for run in runs}
