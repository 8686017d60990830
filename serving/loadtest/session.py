"""The order of a load test: every model's blocks next to the others', so that what drifts hits all alike."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from serving.loadtest.generator import Block, Snapshot
from serving.loadtest.recorder import BlockResult
from serving.loadtest.results import Run
from serving.loadtest.scenario import ClosedLoop, Load, Scenario
from serving.loadtest.schedule import generator_for
from serving.loadtest.worker import GeneratorProcess


@dataclass(frozen=True)
class Progress:
    """How the test stands, for whoever shows it."""

    block: Block
    done: float  # Seconds of measuring that lie behind.
    ahead: float  # Seconds that the blocks known by now still need at least.
    snapshot: Snapshot


def interleaved(scenario: Scenario, loads: Iterable[Load]) -> Iterator[Block]:
    """Rounds of blocks. A round holds each load once, in random order, and under it each model once, in random order.

    In one round an open loop has the same schedule for every model.
    """
    random = generator_for(scenario.seed, "order")
    ordered = tuple(loads)
    for number in range(scenario.blocks):
        for place in random.permutation(len(ordered)):
            for which in random.permutation(len(scenario.models)):
                yield Block(
                    model=scenario.models[which],
                    load=ordered[place],
                    limits=scenario.limits.share(scenario.blocks),
                    warm_up=scenario.warm_up,
                    seed=scenario.seed,
                    round=number,
                )


def run(
    scenario: Scenario, process: GeneratorProcess, stop: threading.Event, on_progress: Callable[[Progress], None]
) -> tuple[Run, ...]:
    """Run the closed loops, then the open loops, until done or `stop` is set. What was measured comes back either way.

    Raises GeneratorError.
    """
    results: list[BlockResult] = []
    done = 0.0

    def report(block: Block, before: float, ahead: float, now: Snapshot) -> None:
        on_progress(Progress(block, before + now.elapsed, ahead - now.elapsed, now))

    def run_all(blocks: list[Block], later: float) -> None:
        nonlocal done
        for place, block in enumerate(blocks):
            if stop.is_set():
                return
            ahead = sum(map(_least_duration, blocks[place:])) + later
            results.append(process.run(block, partial(report, block, done, ahead)))
            done += results[-1].window + block.warm_up

    closed = list(interleaved(scenario, scenario.closed_loops))
    open_loops = scenario.open_loops(1.0)  # The rate may not be known yet; how many there are, and how long, is.
    run_all(closed, sum(map(_least_duration, interleaved(scenario, open_loops))))
    open_loops = scenario.open_loops(_slowest_peak(_runs(scenario, results)))
    run_all(list(interleaved(scenario, open_loops)), 0.0)
    return _runs(scenario, results)


def _runs(scenario: Scenario, results: list[BlockResult]) -> tuple[Run, ...]:
    """The blocks grouped by load, then by model. One that was stopped before it measured anything is left out."""
    grouped: dict[tuple[Load, str], list[BlockResult]] = {}
    for result in results:
        if result.queries:
            grouped.setdefault((result.load, result.model), []).append(result)

    def in_order(key: tuple[Load, str]) -> tuple[bool, float, int]:
        load, model = key
        amount = load.concurrency if isinstance(load, ClosedLoop) else load.rate
        return not isinstance(load, ClosedLoop), amount, scenario.models.index(model)

    return tuple(
        Run(tuple(grouped[key]), scenario.batch_size, scenario.blocks) for key in sorted(grouped, key=in_order)
    )


def _slowest_peak(runs: tuple[Run, ...]) -> float:
    """The highest throughput of the model whose highest throughput is the lowest; 0 when there is none."""
    peaks: dict[str, float] = {}
    for run in runs:
        peaks[run.model] = max(peaks.get(run.model, 0.0), run.throughput)
    return min(peaks.values(), default=0.0)


def _least_duration(block: Block) -> float:
    return block.warm_up + block.limits.min_duration
