"""Runs the blocks of a load test, interleaved between targets, so that drift of the machine affects all alike."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.channels.channel import clock
from hangtag.serving.loadtest.generator.messages import Block, Snapshot
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.machine.cpu_times import CpuTimes
from hangtag.serving.loadtest.machine.other_programs import other_programs
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.measuring.server_counts import ReadCounters, ServerCounts
from hangtag.serving.loadtest.plan.load import Load, sort_key
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.plan.schedule import random_generator


@dataclass(frozen=True)
class Progress:
    """The progress of a load test."""

    block: Block
    done: float  # Seconds of measuring so far.
    ahead: float  # Seconds that the remaining known blocks need at least.
    snapshot: Snapshot
    phase: str = "measuring"


def interleaved(scenario: Scenario, loads: Iterable[Load]) -> Iterator[Block]:
    """Rounds of blocks: in each round each load once, in random order, and under it each target once, in random order.

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
    """Runs blocks one after the other, and combines their results into runs."""

    def __init__(
        self,
        scenario: Scenario,
        generators: GeneratorProcesses,
        stop: threading.Event,
        on_progress: Callable[[Progress], None],
        read_counters: ReadCounters,
    ) -> None:
        """Prepare a session: `generators` hold a request pool for each target; `stop` ends it early."""
        self._scenario = scenario
        self._generators = generators
        self._stop = stop
        self._on_progress = on_progress
        self._counts = ServerCounts(read_counters)
        self._began = clock()
        self._done = 0.0
        self._results: list[BlockResult] = []

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
        """Run these blocks in order and keep their results. `later` as in `run_block`. Raises GeneratorError."""
        for index, block in enumerate(blocks):
            if self._stop.is_set():
                return
            self._results.append(self.run_block(block, sum(map(_min_duration, blocks[index + 1 :])) + later))

    def run_block(self, block: Block, later: float = 0.0) -> BlockResult:
        """Run one block and return its result, with the server's counts, without keeping it.

        Args:
            block: The block.
            later: Seconds that later blocks need, for the progress.

        Raises:
            GeneratorError: When a generator process failed.
        """

        def report(now: Snapshot) -> None:
            self._on_progress(Progress(block, self._done + now.elapsed, remaining(block, now) + later, now))

        self._counts.begin(block)
        started, cpus_before = clock() - self._began, CpuTimes.now()
        with other_programs(target.listens_at for target in self._scenario.targets if target.is_loopback) as others:
            result = self._generators.run(block, report)
        # A server on another machine loses nothing to the generator.
        busy = CpuTimes.now().busy_share(cpus_before) if self._scenario.is_loopback else 0.0
        counted = self._counts.end(block, result)
        self._done += result.window + block.warm_up
        measuring_began = started + block.warm_up
        timeline = tuple(
            replace(time_slice, start=measuring_began + time_slice.start) for time_slice in result.timeline
        )
        return replace(result, timeline=timeline, server=counted, cpus_busy=busy, others=others.share)

    def as_run(self, blocks: list[BlockResult], planned_blocks: int) -> Run:
        """Combine blocks of one target under one load into a run."""
        load, target = blocks[0].load, blocks[0].target
        counted_in_part = target in self._counts.counted_in_part
        if counted_in_part:  # Earlier readings may have fitted by chance.
            blocks = [replace(block, server=None) for block in blocks]
        return Run(
            blocks=tuple(blocks),
            batch_size=self._scenario.batch_size,
            planned_blocks=planned_blocks,
            percentile=self._scenario.percentile,
            target_latency=self._scenario.target_latency,
            judged=self._scenario.judged,
            restarted=self._counts.restarted(load, target),
            counted_in_part=counted_in_part,
        )

    def runs(self) -> tuple[Run, ...]:
        """The results so far, by load, then by target, without blocks that were stopped before measuring anything."""
        grouped: dict[tuple[Load, str], list[BlockResult]] = {}
        for result in self._results:
            if result.queries:
                grouped.setdefault((result.load, result.target), []).append(result)

        def position(key: tuple[Load, str]) -> tuple[tuple[bool, float], int]:
            return sort_key(key[0]), self._scenario.names.index(key[1])

        return tuple(self.as_run(grouped[key], self._scenario.blocks) for key in sorted(grouped, key=position))

    def peaks(self) -> dict[str, float]:
        """The highest throughput of each target so far, in queries per second."""
        peaks: dict[str, float] = {}
        for run in self.runs():
            peaks[run.target] = max(peaks.get(run.target, 0.0), run.throughput)
        return peaks


def remaining(block: Block, now: Snapshot) -> float:
    """Seconds until a running block reaches both minima, or a maximum, at its present rate."""
    limits, measured = block.limits, now.elapsed - block.warm_up
    seconds = limits.min_duration - measured
    if now.rate > 0:
        seconds = max(seconds, (limits.min_query_count - now.queries) / now.rate)
    return max(min(seconds, limits.max_duration - measured), 0.0)


def _min_duration(block: Block) -> float:
    return block.warm_up + block.limits.min_duration
