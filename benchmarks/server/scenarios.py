"""What is measured of a running server: each scenario puts one load on it and returns figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from benchmarks.server import h2load
from benchmarks.server.h2load import Load
from benchmarks.server.process import Served

Figures = dict[str, Any]

MANY = {"clients": 16, "streams": 4}  # 64 in flight
OFFLINE_SAMPLES = 64
DEADLINE = 0.5
OVERLOAD = 10
BOUND_MS = 15.0  # of the server scenario's 99th percentile, as MLPerf's ResNet-50 has it
_STREAMS = 1024  # in flight at most on a connection of an open loop: more than are ever needed


@dataclass(frozen=True)
class Bench:
    """A server, and how long each load lasts: about, since calls are counted."""

    server: Served
    seconds: float

    def closed(self, model: str, *, samples: int = 1, clients: int = 1, streams: int = 1) -> Figures:
        """Closed loop: calls and samples a second, latency, processors used, and the mean batch."""
        load = Load(8 + 200 // samples, clients, streams, samples)
        per_second = h2load.run(self.server.address, model, load).per_second  # warms up, and tells how many
        load = Load(max(load.calls, round(per_second * self.seconds)), clients, streams, samples)
        cpu = self.server.cpu_seconds()
        before = self.server.answered(model)
        outcome = h2load.run(self.server.address, model, load)
        after = self.server.answered(model)
        if after.calls - before.calls != load.calls:  # h2load sees HTTP's 200 on a refused call too
            raise click.ClickException(f"{after.calls - before.calls} of {load.calls} calls for {model} were answered")
        elapsed = load.calls / outcome.per_second
        return {
            "calls_per_s": outcome.per_second,
            "samples_per_s": outcome.per_second * samples,
            "p50_ms": outcome.p50_ms,
            "p99_ms": outcome.percentile_ms(99),
            "cpus": (self.server.cpu_seconds() - cpu) / elapsed,
            "mean_batch": (after.samples - before.samples) / (after.batches - before.batches),
        }

    def poisson(self, model: str, rate: float, seed: int) -> Figures:
        """Open loop: latency counts from the planned time, so a late generator counts against the result."""
        gaps = np.random.default_rng(seed).exponential(1 / rate, max(200, round(rate * self.seconds)))
        planned = np.cumsum(gaps) - gaps[0]
        load = Load(len(planned), 1, _STREAMS, schedule=planned.tolist())
        before = self.server.answered(model).calls
        outcome = h2load.run(self.server.address, model, load)
        late = np.maximum(0, np.array(outcome.starts) - planned)
        return {
            "rate": rate,
            "p99_ms": float(np.percentile(np.array(outcome.latencies) + late, 99)) * 1e3,
            "answered": (self.server.answered(model).calls - before) / len(planned),
        }

    def highest_rate(self, model: str, bare: float, shares: Sequence[float]) -> Figures:
        """The highest of these shares of bare ONNX Runtime's rate at which every call is answered within the bound."""
        tried = []
        for share in sorted(shares, reverse=True):
            figures = self.poisson(model, share * bare, seed=round(share * 1000))
            tried.append(figures)
            if figures["p99_ms"] <= BOUND_MS and figures["answered"] == 1:
                return {"share": share, "tried": tried}
        return {"share": 0.0, "tried": tried}

    def overload(self, model: str, capacity: float) -> Figures:
        """Ten times what it can do, evenly spaced, each call with a deadline; then one call after another again."""
        usual = h2load.run(self.server.address, model, Load(200))
        load = Load(
            round(OVERLOAD * capacity * self.seconds), 16, _STREAMS, rate=OVERLOAD * capacity, deadline=DEADLINE
        )
        memory = self.server.pss_mb()
        before = self.server.answered(model).calls
        outcome = h2load.run(self.server.address, model, load)
        succeeded = self.server.answered(model).calls - before
        after = h2load.run(self.server.address, model, Load(max(200, round(usual.per_second))))
        elapsed = load.calls / outcome.per_second
        # Refused ones may be slow too, so this leaves out rather too many; those that were reset were never answers.
        slow = max(0, sum(seconds > DEADLINE for seconds in outcome.latencies) - outcome.failed)
        return {
            "offered_per_s": outcome.per_second,
            "in_time_per_s": max(0, succeeded - slow) / elapsed,
            "in_time_share": max(0, succeeded - slow) / elapsed / capacity,
            "memory_growth_mb": self.server.pss_mb() - memory,
            "recovery_s": _recovery(after, 2 * usual.percentile_ms(99)),
        }


def _recovery(after: h2load.Outcome, usual_ms: float) -> float:
    """Seconds until calls take what they usually take: the start of the first ten in a row that do."""
    quick = [seconds * 1e3 <= usual_ms for seconds in after.latencies]
    for place in range(len(quick) - 9):
        if all(quick[place : place + 10]):
            return after.starts[place]
    return after.starts[-1]
