"""What the transport costs, where targets are one model on one machine, called over gRPC and over HTTP."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.statistics.server_timings import PARTS


@dataclass(frozen=True)
class TransportCost:
    """The mean time of a call outside of the model, under one load: the latency less what the server counted for its
    queue and for computing. The generator's own time and the network's are part of it."""

    load: Load
    grpc: str  # The target's name.
    http: str
    grpc_seconds: float
    http_seconds: float

    @property
    def sentence(self) -> str:
        """For example: At 8 in flight a call spends 310 µs outside of the model over gRPC (a), 420 µs over HTTP (b)."""
        return (
            f"At {self.load} a call spends {units.duration(self.grpc_seconds)} outside of the model over gRPC "
            f"({self.grpc}) and {units.duration(self.http_seconds)} over HTTP ({self.http}), the generator's own time "
            "included."
        )


def transport_costs(results: Results) -> tuple[TransportCost, ...]:
    """Compare both protocols under each load that both ran under, where both runs are VALID and the server counts."""
    costs = []
    for grpc, http in _pairs(results.scenario.targets):
        for load in results.loads:
            runs = {run.target: run for run in results.under(load) if run.valid}
            seconds = [_outside(runs[name]) for name in (grpc.name, http.name) if name in runs]
            if len(seconds) == 2 and seconds[0] is not None and seconds[1] is not None:
                costs.append(TransportCost(load, grpc.name, http.name, seconds[0], seconds[1]))
    return tuple(costs)


def _pairs(targets: tuple[Target, ...]) -> Iterator[tuple[Target, Target]]:
    """The targets that are the same but for the protocol."""
    for one, other in product(targets, targets):
        if (one.protocol, other.protocol) == ("gRPC", "HTTP") and _what(one) == _what(other):
            yield one, other


def _what(target: Target) -> tuple[str, ...]:
    return target.listens_at.rpartition(":")[0], target.model, target.version, target.method


def _outside(run: Run) -> float | None:
    """Seconds; None where the server keeps no statistics."""
    server, latency = run.total.server, run.total.latency
    if server is None or not server.count or not latency:
        return None
    return max(latency.mean - sum(server.mean(part) for part in PARTS), 0.0)
