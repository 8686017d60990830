"""The generator's own ceiling: the same loads against a server that does nothing."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from serving.loadtest.generator.fleet import Fleet
from serving.loadtest.generator.measured import BlockResult
from serving.loadtest.generator.null_server import null_server
from serving.loadtest.generator.orders import INFER, Block, Connections, Feed
from serving.loadtest.plan.loads import Limits, Load

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
    connections: Connections,
) -> tuple[Ceiling, ...]:
    """Measure the ceiling under each load with these requests. Fewer come back once `stop` is set.

    Raises GeneratorError.
    """
    with null_server() as address:
        feeds = {"null": Feed(address, INFER, requests)}
        with Fleet(feeds, connections, processes, stop) as fleet:
            ceilings = []
            for load in loads:
                if not stop.is_set():
                    result = fleet.run(Block("null", load, LIMITS, WARM_UP, seed=0, round=0), lambda _: None)
                    ceilings.append(Ceiling.of(result))
    return tuple(ceilings)
