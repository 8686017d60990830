"""Measures the generator's own ceiling: the same loads on the null server, which computes nothing."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.messages import INFER, Block, CallSettings, RequestPool, Snapshot
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.measuring.session import Progress, remaining
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import Load
from hangtag.serving.loadtest.sut.null_server import null_server

LIMITS = Limits(min_duration=1.0, min_query_count=500, max_duration=5.0, max_query_count=1_000_000)
WARM_UP = 0.2  # Seconds.


@dataclass(frozen=True)
class Ceiling:
    """What the generator reached under one load on the null server. Durations in seconds."""

    protocol: str  # gRPC or HTTP.
    load: Load
    throughput: float  # Queries per second.
    p50: float
    p99: float
    delayed: float  # The share of an open loop's queries that were delayed.

    @classmethod
    def from_block(cls, protocol: str, result: BlockResult) -> "Ceiling":
        """From a block on the null server of a protocol."""
        latency = result.latency
        delayed = result.delayed / result.queries if result.queries else 0.0
        return cls(protocol, result.load, result.throughput, latency.percentile(50), latency.percentile(99), delayed)


def calibrate(
    protocol: str,
    loads: Sequence[Load],
    requests: tuple[bytes, ...],
    processes: int,
    stop: threading.Event,
    settings: CallSettings,
    on_progress: Callable[[Progress], None],
) -> tuple[Ceiling, ...]:
    """Measure the ceiling of a protocol, gRPC or HTTP, under each load with these serialised requests.

    `stop` leaves out the remaining loads.

    Raises:
        GeneratorError: When a generator process failed.
    """
    with null_server(protocol) as address:
        pools = {"null": RequestPool(address, INFER, requests)}
        with GeneratorProcesses(pools, settings, processes, stop) as generators:
            ceilings = []
            for index, load in enumerate(loads):
                if not stop.is_set():
                    block = Block("null", load, LIMITS, WARM_UP, seed=0, round=0)
                    report = partial(_report, on_progress, block, index, len(loads))
                    ceilings.append(Ceiling.from_block(protocol, generators.run(block, report)))
    return tuple(ceilings)


def _report(on_progress: Callable[[Progress], None], block: Block, index: int, loads: int, now: Snapshot) -> None:
    per_load = WARM_UP + LIMITS.min_duration
    ahead = remaining(block, now) + per_load * (loads - index - 1)
    on_progress(Progress(block, index * per_load + now.elapsed, ahead, now, phase="the generator's own ceiling"))
