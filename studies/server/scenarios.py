"""Puts loads on a running server; each scenario returns its figures."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from studies.server import h2load, open_loop
from studies.server.h2load import Load
from studies.server.process import Served

Figures = dict[str, Any]

MANY = {"clients": 16, "streams": 4}  # 64 in flight
OFFLINE_SAMPLES = 64
DEADLINE = 0.5
OVERLOAD = 10
BOUND_MS = 15.0  # bound of the 99th percentile in MLPerf's server scenario for ResNet-50


@dataclass(frozen=True)
class Bench:
    """A server under test, and the approximate duration of each load; the exact measure is a number of calls."""

    server: Served
    seconds: float

    def closed(self, model: str, *, samples: int = 1, clients: int = 1, streams: int = 1) -> Figures:
        """Closed loop: calls and samples a second, latency, processors used, and the mean batch."""
        load = Load(8 + 200 // samples, clients, streams, samples)
        per_second = h2load.run(
            self.server.address, model, load
        ).per_second  # The warm-up shows how many calls it takes.
        load = Load(max(load.calls, round(per_second * self.seconds)), clients, streams, samples)
        cpu = self.server.cpu_seconds()
        before = self.server.answered(model)
        outcome = h2load.run(self.server.address, model, load)
        after = self.server.answered(model)
        if after.calls - before.calls != load.calls:  # To h2load a refused call is a success: HTTP's 200.
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
        """Open loop with Poisson arrivals by `hangtag loadtest`; latency counts from the planned time."""
        run = open_loop.run(self.server.address, model, rate, self.seconds, seed=seed)
        return {
            "rate": rate,
            "p99_ms": run["latency"]["p99"] * 1e3 if run["latency"]["count"] else math.inf,
            "answered": run["statuses"].get("OK", 0) / run["queries"],
            "delayed": run["delayed_queries"] / run["queries"],
        }

    def highest_rate(self, model: str, bare: float, shares: Sequence[float]) -> Figures:
        """The highest share of bare ONNX Runtime's rate at which every call is answered and p99 is within the bound.

        A binary search: a server that meets the bound at one share is taken to meet it at all smaller ones.

        Args:
            bare: Bare ONNX Runtime's samples a second.
            shares: The shares to choose from, ascending.
        """

        def misses(share: float) -> bool:
            figures = self.poisson(model, share * bare, seed=round(share * 1000))
            return bool(figures["p99_ms"] > BOUND_MS or figures["answered"] < 1)

        count = bisect.bisect_left(shares, True, key=misses)
        return {"share": shares[count - 1] if count else 0.0}

    def overload(self, model: str) -> Figures:
        """Offer ten times the server's capacity, each call with a deadline; then send one call after another.

        The server needs processors of its own: the load generator takes several times as much for a call as h2load, but
        it distinguishes calls that were answered in time from refused ones.
        """
        capacity = self.closed(model, **MANY)["calls_per_s"]
        usual = h2load.run(self.server.address, model, Load(200))
        memory = self.server.pss_mb()
        rate = OVERLOAD * capacity
        run = open_loop.run(self.server.address, model, rate, self.seconds, deadline=DEADLINE)
        after = h2load.run(self.server.address, model, Load(max(200, round(usual.per_second))))
        in_time = run["statuses"].get("OK", 0) / run["duration"]
        return {
            "capacity_per_s": capacity,
            "offered_per_s": run["queries"] / run["duration"],
            "delayed": run["delayed_queries"] / run["queries"],
            "in_time_per_s": in_time,
            "in_time_share": in_time / capacity,
            "memory_growth_mb": self.server.pss_mb() - memory,
            "recovery_s": _recovery(after, 2 * usual.percentile_ms(99)),
        }


def _recovery(after: h2load.Outcome, usual_ms: float) -> float:
    """Seconds until latency is usual again: the start of the first ten consecutive calls of usual latency."""
    quick = [seconds * 1e3 <= usual_ms for seconds in after.latencies]
    for place in range(len(quick) - 9):
        if all(quick[place : place + 10]):
            return after.starts[place]
    return after.starts[-1]
