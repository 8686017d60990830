"""The order of a load test: every target's blocks next to the others', so that what drifts hits all alike."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from hangtag.serving.loadtest.generator.block_result import OK, BlockResult
from hangtag.serving.loadtest.generator.channels import clock
from hangtag.serving.loadtest.generator.messages import Block, Snapshot
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load, order_of
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.plan.schedule import random_generator
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings

# The counters of a target's server as they stand (by target name), or None where it keeps none.
Counters = Callable[[str], ServerTimings | None]
# A server that counted less than this share of what it answered began anew in between ...
COUNTED_SHARE = 0.9
# ... and so did one that was out of reach meanwhile and has not counted these many of its answers.
UNCOUNTED = 16
UNREACHABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class Progress:
    """How the test stands, for whoever shows it."""

    block: Block
    done: float  # Seconds of measuring that lie behind.
    ahead: float  # Seconds that the blocks known by now still need at least.
    snapshot: Snapshot
    phase: str = "measuring"


def interleaved(scenario: Scenario, loads: Iterable[Load]) -> Iterator[Block]:
    """Rounds of blocks. A round holds each load once, in random order, and under it each target once, in random order.

    In one round an open loop has the same schedule for every target.
    """
    random = random_generator(scenario.seed, "order")
    ordered = tuple(loads)
    for number in range(scenario.blocks):
        for place in random.permutation(len(ordered)):
            for which in random.permutation(len(scenario.targets)):
                yield Block(
                    target=scenario.targets[which].name,
                    load=ordered[place],
                    limits=scenario.limits.share(scenario.blocks),
                    warm_up=scenario.warm_up,
                    seed=scenario.seed,
                    round=number,
                )


class Session:
    """Runs blocks one after the other, and keeps what they measured."""

    def __init__(
        self,
        scenario: Scenario,
        fleet: GeneratorProcesses,
        stop: threading.Event,
        on_progress: Callable[[Progress], None],
        counters: Counters,
    ) -> None:
        """Nothing runs yet. Once `stop` is set, nothing more does."""
        self._scenario = scenario
        self._fleet = fleet
        self._stop = stop
        self._on_progress = on_progress
        self._counters = counters
        self._began = clock()
        self._done = 0.0
        self._results: list[BlockResult] = []
        self._restarted: set[tuple[Load, str]] = set()
        # Each target's counters when they were last read, and how its queries have ended since.
        self._seen: dict[str, tuple[ServerTimings | None, Counter[str]]] = {}

    @property
    def stopped(self) -> bool:
        """Whether nothing more runs."""
        return self._stop.is_set()

    def run(self) -> tuple[Run, ...]:
        """The closed loops, then the open loops. What was measured comes back either way. Raises GeneratorError."""
        scenario = self._scenario
        open_loops = scenario.open_loops(1.0)  # The rate may not be known yet; how many there are, and how long, is.
        later = sum(map(_least_duration, interleaved(scenario, open_loops)))
        self.run_all(list(interleaved(scenario, scenario.closed_loops)), later)
        open_loops = scenario.open_loops(min(self.peaks().values(), default=0.0))
        self.run_all(list(interleaved(scenario, open_loops)))
        return self.runs()

    def run_all(self, blocks: list[Block], later: float = 0.0) -> None:
        """These blocks in their order. `later`: seconds that are needed after them, for the progress."""
        for place, block in enumerate(blocks):
            if self._stop.is_set():
                return
            self._results.append(self.run_block(block, sum(map(_least_duration, blocks[place + 1 :])) + later))

    def run_block(self, block: Block, later: float = 0.0) -> BlockResult:
        """One block, with what the server says of it. It is not kept. `later`: seconds that are needed after it."""

        def report(now: Snapshot) -> None:
            self._on_progress(Progress(block, self._done + now.elapsed, still_needs(block, now) + later, now))

        before, _ = self._look(block, Counter())
        started = clock() - self._began
        result = self._fleet.run(block, report)
        _, counted = self._look(block, result.statuses)
        self._done += result.window + block.warm_up
        timings = counted if before is not None else None  # Else it counted from further back.
        began = started + block.warm_up
        timeline = tuple(replace(one, start=began + one.start) for one in result.timeline)
        return replace(result, timeline=timeline, server=timings)

    def _look(self, block: Block, statuses: Counter[str]) -> tuple[ServerTimings | None, ServerTimings | None]:
        """The counters of a block's target, and what they counted since they were last read: None where that is not
        known. A server that is gone tells nothing, and is looked at again when it is back. `statuses` are of the
        queries that ended since the last look."""
        now = self._counters(block.target)
        seen, ended = self._seen.get(block.target, (None, Counter()))
        ended = ended + statuses
        if now is None:
            self._seen[block.target] = seen, ended
            return None, None
        self._seen[block.target] = now, Counter()
        if seen is None:
            return now, None
        counted = now.since(seen)
        if counted is None or not _counted_all(counted, ended):
            self._restarted.add((block.load, block.target))
            return now, None
        return now, counted

    def as_run(self, blocks: list[BlockResult], planned_blocks: int) -> Run:
        """Blocks of one target under one load as a run."""
        return Run(
            blocks=tuple(blocks),
            batch_size=self._scenario.batch_size,
            planned_blocks=planned_blocks,
            percentile=self._scenario.percentile,
            target_latency=self._scenario.target_latency,
            judged=self._scenario.judged,
            restarted=(blocks[0].load, blocks[0].target) in self._restarted,
        )

    def runs(self) -> tuple[Run, ...]:
        """The blocks grouped by load, then by target. One stopped before it measured anything is left out."""
        grouped: dict[tuple[Load, str], list[BlockResult]] = {}
        for result in self._results:
            if result.queries:
                grouped.setdefault((result.load, result.target), []).append(result)

        def in_order(key: tuple[Load, str]) -> tuple[tuple[bool, float], int]:
            return order_of(key[0]), self._scenario.names.index(key[1])

        return tuple(self.as_run(grouped[key], self._scenario.blocks) for key in sorted(grouped, key=in_order))

    def peaks(self) -> dict[str, float]:
        """Each target's highest throughput (calls/s) so far."""
        peaks: dict[str, float] = {}
        for run in self.runs():
            peaks[run.target] = max(peaks.get(run.target, 0.0), run.throughput)
        return peaks


def still_needs(block: Block, now: Snapshot) -> float:
    """Seconds until a block that runs has reached both minima, or a maximum, at the rate that it has now."""
    limits, measured = block.limits, now.elapsed - block.warm_up
    until_enough = limits.min_duration - measured
    if now.rate > 0:
        until_enough = max(until_enough, (limits.min_query_count - now.queries) / now.rate)
    return max(min(until_enough, limits.max_duration - measured), 0.0)


def _least_duration(block: Block) -> float:
    return block.warm_up + block.limits.min_duration


def _counted_all(counted: ServerTimings, ended: Counter[str]) -> bool:
    """Whether the server counted what it answered, about: one that began anew has forgotten a part of it."""
    answered = ended[OK]
    if ended[UNREACHABLE] and answered - counted.count > UNCOUNTED:
        return False
    # The last answers may be on their way before they are counted.
    return counted.count >= COUNTED_SHARE * answered
