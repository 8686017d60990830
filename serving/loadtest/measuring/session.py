"""Run the blocks of a load test, interleaved between targets, so that drift of the machine affects all alike.

Before and after each block, read how many queries the servers counted, to notice a restart, or several servers behind
one address.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import fmean

import psutil

from hangtag.serving.loadtest.generator.block_result import OK, BlockResult
from hangtag.serving.loadtest.generator.channels import clock
from hangtag.serving.loadtest.generator.messages import Block, Snapshot
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.machine import other_programs
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load, random_generator, sort_key
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings

# Returns the current counters of a target's server, given the target's name; None if the server keeps none.
ReadCounters = Callable[[str], ServerTimings | None]
# A server has counted at least this share of its answers: it may send the last ones before it counts them.
COUNTED_SHARE = 0.9
# If a server was unreachable and has not counted this many of the queries that it answered, it has restarted.
UNCOUNTED = 16
UNREACHABLE = "UNAVAILABLE"
WARM_UP = "warm-up"  # Used in place of a status, because the statuses of the warm-up's queries are not recorded.
# Counters that do not match the queries are read this many times more, to see whether one server keeps them all.
MORE_READINGS = 16


class ServerCounts:
    """Reads the counters of a target's server before and after each of its blocks.

    The counters of one server only grow, until the server or the model restarts. Behind a balancer, each reading may
    come from another server, or all readings from one server that gets only some of the queries. Such counters say
    nothing about the queries, and do not prove a restart. The target is then in `counted_in_part`.
    """

    def __init__(self, read: ReadCounters) -> None:
        self.counted_in_part: set[str] = set()
        self._read = read
        self._known_before = False  # Whether the counters were read when the current block began.
        # For each target: the counters when they were last read, and how its queries have ended since then.
        self._last: dict[str, tuple[ServerTimings | None, Counter[str]]] = {}
        self._restarted: set[tuple[Load, str]] = set()

    def begin(self, block: Block) -> None:
        """Read the counters before a block."""
        counters, _ = self._update(block, Counter())
        self._known_before = counters is not None

    def end(self, block: Block, result: BlockResult) -> ServerTimings | None:
        """Read the counters after a block, and return what was counted during the block; None if unknown."""
        _, counted = self._update(block, result.statuses + Counter({WARM_UP: result.warm_up_queries}))
        # Without counters from before the block, `counted` covers more than the block.
        return counted if self._known_before else None

    def restarted(self, load: Load, target: str) -> bool:
        """Whether the target's server, or the model, restarted while the target was measured under this load."""
        return (load, target) in self._restarted and target not in self.counted_in_part

    def _update(self, block: Block, statuses: Counter[str]) -> tuple[ServerTimings | None, ServerTimings | None]:
        """Read the counters of the block's target. `statuses`: of the queries since the previous call.

        An unreachable server is skipped. When the server answers again, its counters are compared with the last known
        ones.

        Returns:
            The counters, and what was counted since the previous reading; None if unknown.
        """
        if block.target in self.counted_in_part:
            return None, None
        counters = self._read(block.target)
        last, ended = self._last.get(block.target, (None, Counter()))
        ended = ended + statuses
        if counters is None:
            self._last[block.target] = last, ended
            return None, None
        counted = None
        if last is not None:
            counted = counters.since(last)
            if not _fits(counted, ended):
                counters, counted = self._explain(block, counters, last, ended)
        self._last[block.target] = counters, Counter()
        return counters, counted

    def _explain(
        self, block: Block, counters: ServerTimings, last: ServerTimings, ended: Counter[str]
    ) -> tuple[ServerTimings, ServerTimings | None]:
        """Find out why these counters do not fit the queries. Returns the latest counters, and what was counted."""
        for _ in range(MORE_READINGS):
            again = self._read(block.target)
            if again is None:
                break
            if again.since(counters) is None:  # Read at once after the previous reading, so this is another server.
                self.counted_in_part.add(block.target)
                return again, None
            counters = again
        counted = counters.since(last)
        if counted is not None and not _lacks(counted, ended):
            return counters, counted  # The server counted late, or counted other clients' queries too.
        if counted is None or ended[UNREACHABLE]:
            self._restarted.add((block.load, block.target))
        else:
            self.counted_in_part.add(block.target)
        return counters, None


def _fits(counted: ServerTimings | None, ended: Counter[str]) -> bool:
    """Whether about as many queries were counted as ended. If none ended, any counted are another target's."""
    if counted is None or _lacks(counted, ended):
        return False
    return not ended or counted.count <= ended.total() / COUNTED_SHARE + UNCOUNTED


def _lacks(counted: ServerTimings, ended: Counter[str]) -> bool:
    """Whether the count lacks queries that the server has answered."""
    answered = ended[OK]
    few = counted.count < COUNTED_SHARE * answered
    return few or (bool(ended[UNREACHABLE]) and answered - counted.count > UNCOUNTED)


@dataclass(frozen=True)
class Progress:
    """The progress of a load test."""

    block: Block
    done: float  # Seconds of measuring so far.
    ahead: float  # Seconds that the remaining known blocks need at least.
    snapshot: Snapshot


def interleaved(scenario: Scenario, loads: Iterable[Load]) -> Iterator[Block]:
    """Yield rounds of blocks. A round has each load once, in random order, and for each load all targets, in random
    order.

    Within a round an open loop has the same schedule for every target.
    """
    random = random_generator(scenario.seed, "order")
    load_list = tuple(loads)
    for number in range(scenario.blocks):
        for load_index in random.permutation(len(load_list)):
            for target_index in random.permutation(len(scenario.targets)):
                yield Block(
                    target=scenario.targets[target_index].name,
                    load=load_list[load_index],
                    limits=scenario.limits.per_block(scenario.blocks),
                    warm_up=scenario.warm_up,
                    seed=scenario.seed,
                    round=number,
                )


class Session:
    """Runs blocks one after another, and combines the blocks' results into runs."""

    def __init__(
        self,
        scenario: Scenario,
        generators: GeneratorProcesses,
        stop: threading.Event,
        on_progress: Callable[[Progress], None],
        read_counters: ReadCounters,
    ) -> None:
        """Prepare a session. `generators` hold a request pool for each target; `stop` ends the session early."""
        self._scenario = scenario
        self._generators = generators
        self._stop = stop
        self._on_progress = on_progress
        self._counts = ServerCounts(read_counters)
        self._began = clock()
        self._done = 0.0
        self._results: list[tuple[Block, BlockResult]] = []

    @property
    def stopped(self) -> bool:
        """Whether the session was stopped."""
        return self._stop.is_set()

    def run(self) -> tuple[Run, ...]:
        """Run the closed loops, then the open loops, and return what was measured, also after a stop.

        Raises:
            GeneratorError: When a generator process failed.
        """
        scenario = self._scenario
        open_loops = scenario.open_loops(1.0)  # A derived rate is unknown yet; the number and duration are known.
        later = sum(map(_min_duration, interleaved(scenario, open_loops)))
        self.run_all(list(interleaved(scenario, scenario.closed_loops)), later)
        open_loops = scenario.open_loops(min(self.peaks().values(), default=0.0))
        self.run_all(list(interleaved(scenario, open_loops)))
        return self.runs()

    def run_all(self, blocks: list[Block], later: float = 0.0) -> None:
        """Run these blocks in order and keep their results. `later`: see `run_block`. Raises GeneratorError."""
        for index, block in enumerate(blocks):
            if self._stop.is_set():
                return
            self._results.append((block, self.run_block(block, sum(map(_min_duration, blocks[index + 1 :])) + later)))

    def run_block(self, block: Block, later: float = 0.0) -> BlockResult:
        """Run one block and return its result, with the server's counts. The session does not keep this result.

        Args:
            block: The block.
            later: How many seconds later blocks need, for the progress.

        Raises:
            GeneratorError: When a generator process failed.
        """

        def report(now: Snapshot) -> None:
            self._on_progress(Progress(block, self._done + now.elapsed, remaining(block, now) + later, now))

        self._counts.begin(block)
        started = clock() - self._began
        psutil.cpu_percent(percpu=True)  # The next call covers the time since this one.
        with other_programs(target.listens_at for target in self._scenario.targets if target.is_loopback) as others:
            result = self._generators.run(block, report)
        # A server on another machine loses nothing to the generator.
        usable = os.sched_getaffinity(0) if self._scenario.is_loopback else ()
        percents = [share for cpu, share in enumerate(psutil.cpu_percent(percpu=True)) if cpu in usable]
        busy = fmean(percents) / 100 if percents else 0.0
        counted = self._counts.end(block, result)
        self._done += result.duration + block.warm_up
        measuring_began = started + block.warm_up
        timeline = tuple(
            replace(time_slice, start=measuring_began + time_slice.start) for time_slice in result.timeline
        )
        return replace(result, timeline=timeline, server=counted, cpus_busy=busy, others_cpu_share=others.share)

    def as_run(self, target: str, load: Load, blocks: list[BlockResult], planned_blocks: int) -> Run:
        """Combine blocks of one target under one load into a run."""
        counted_in_part = target in self._counts.counted_in_part
        if counted_in_part:  # Earlier readings may have matched by chance.
            blocks = [replace(block, server=None) for block in blocks]
        return Run(
            target=target,
            load=load,
            blocks=tuple(blocks),
            model=next(each.model for each in self._scenario.targets if each.name == target),
            batch_size=self._scenario.batch_size,
            planned_blocks=planned_blocks,
            percentile=self._scenario.percentile,
            target_latency=self._scenario.target_latency,
            judged=self._scenario.judged,
            restarted=self._counts.restarted(load, target),
            counted_in_part=counted_in_part,
        )

    def runs(self) -> tuple[Run, ...]:
        """The results so far, sorted by load, then by target. Blocks stopped before measuring anything are left out."""
        grouped: dict[tuple[Load, str], list[BlockResult]] = {}
        for block, result in self._results:
            if result.queries:
                grouped.setdefault((block.load, block.target), []).append(result)

        def position(key: tuple[Load, str]) -> tuple[tuple[bool, float], int]:
            return sort_key(key[0]), self._scenario.names.index(key[1])

        return tuple(
            self.as_run(target, load, grouped[load, target], self._scenario.blocks)
            for load, target in sorted(grouped, key=position)
        )

    def peaks(self) -> dict[str, float]:
        """The highest throughput of each target so far, in queries per second."""
        peaks: dict[str, float] = {}
        for run in self.runs():
            peaks[run.target] = max(peaks.get(run.target, 0.0), run.throughput)
        return peaks


def remaining(block: Block, now: Snapshot) -> float:
    """Seconds until a running block reaches both minima, or a maximum, at its current rate."""
    limits, measured = block.limits, now.elapsed - block.warm_up
    seconds = limits.min_duration - measured
    if now.rate > 0:
        seconds = max(seconds, (limits.min_query_count - now.queries) / now.rate)
    return max(min(seconds, limits.max_duration - measured), 0.0)


def _min_duration(block: Block) -> float:
    return block.warm_up + block.limits.min_duration
