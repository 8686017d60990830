"""The generator's own ceiling: the same loads against a server that does nothing."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.messages import INFER, Block, CallSettings, RequestPool, Snapshot
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.measuring.session import Progress, still_needs
from hangtag.serving.loadtest.plan.load import Limits, Load
from hangtag.serving.loadtest.sut.null_server import null_server

LIMITS = Limits(min_duration=1.0, min_query_count=500, max_duration=5.0, max_query_count=1_000_000)
WARM_UP = 0.2


@dataclass(frozen=True)
class Ceiling:
    """What the generator reached under one load against the null server. Durations in seconds."""

    load: Load
    throughput: float  # Calls a second.
    p50: float
    p99: float
    delayed: float  # Share of an open loop's queries that left late.

    @classmethod
    def of(cls, result: BlockResult) -> "Ceiling":
        """From a block against the null server."""
        latency = result.latency
        delayed = result.delayed / result.queries if result.queries else 0.0
        return cls(result.load, result.throughput, latency.percentile(50), latency.percentile(99), delayed)


def calibrate(
    loads: Sequence[Load],
    requests: tuple[bytes, ...],
    processes: int,
    stop: threading.Event,
    connections: CallSettings,
    on_progress: Callable[[Progress], None],
) -> tuple[Ceiling, ...]:
    """Measure the ceiling under each load with these requests. Fewer come back once `stop` is set.

    Raises GeneratorError.
    """
    with null_server() as address:
        feeds = {"null": RequestPool(address, INFER, requests)}
        with GeneratorProcesses(feeds, connections, processes, stop) as fleet:
            ceilings = []
            for place, load in enumerate(loads):
                if not stop.is_set():
                    block = Block("null", load, LIMITS, WARM_UP, seed=0, round=0)
                    report = partial(_report, on_progress, block, place, len(loads))
                    ceilings.append(Ceiling.of(fleet.run(block, report)))
    return tuple(ceilings)


def _report(on_progress: Callable[[Progress], None], block: Block, place: int, loads: int, now: Snapshot) -> None:
    each = WARM_UP + LIMITS.min_duration
    ahead = still_needs(block, now) + each * (loads - place - 1)
    on_progress(Progress(block, place * each + now.elapsed, ahead, now, phase="the generator's own ceiling"))
