"""Puts loads on a running server; each scenario returns its figures."""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import click

from studies.server import h2load, open_loop
from studies.server.h2load import Load
from studies.server.process import Served

Figures = dict[str, Any]

MODELS = ("lstm", "cnn")
SAMPLES = 64
CONNECTIONS = 16
CLOSED_LOOPS: Mapping[str, str] = MappingProxyType(
    {str(number): f"{number} in flight" for number in (1, 4, 16, 64)}
    | {"batch": f"2 in flight, {SAMPLES} samples each"}
)
"""Load -> its description. One image a call, but for `batch`."""
LOADS: Mapping[str, str] = MappingProxyType(
    dict(CLOSED_LOOPS)
    | {
        "poisson": "Poisson arrivals",
        "overload": "10 x overload",
        "start": "start with every model",
    }
)

DEADLINE = 0.5
OVERLOAD = 10
OVERLOAD_STREAMS = 100  # in flight on each connection at most: more than the queue and what is computed hold
BOUND_MS = 15.0  # bound of the 99th percentile in MLPerf's server scenario for ResNet-50
SHARES = tuple(percent / 100 for percent in range(20, 100, 5))


def closed_loop(name: str) -> Load:
    """The shape of a closed loop, by its name, for a single call."""
    if name == "batch":
        return Load(1, clients=2, samples=SAMPLES)
    number = int(name)
    clients = min(number, CONNECTIONS)
    return Load(1, clients, number // clients)


@dataclass(frozen=True)
class Bench:
    """A server under test, and the approximate duration of each load; the exact measure is a number of calls."""

    server: Served
    seconds: float

    def closed(self, model: str, shape: Load) -> Figures:
        """Closed loop: samples a second, latency, processors used, and the mean batch. `shape` without its calls."""
        load = replace(shape, calls=8 + 200 // shape.samples)
        # The warm-up shows how many calls it takes.
        per_second = h2load.run(self.server.url, model, load).per_second
        load = replace(shape, calls=max(load.calls, round(per_second * self.seconds)))
        cpu = self.server.cpu_seconds()
        before = self.server.answered(model)
        outcome = h2load.run(self.server.url, model, load)
        after = self.server.answered(model)
        if after.calls - before.calls != load.calls:  # To h2load a refused call is a success: HTTP's 200.
            raise click.ClickException(f"{after.calls - before.calls} of {load.calls} calls for {model} were answered")
        elapsed = load.calls / outcome.per_second
        return {
            "samples_per_s": outcome.per_second * load.samples,
            "p50_ms": outcome.p50_ms,
            "p99_ms": outcome.percentile_ms(99),
            "cpus": (self.server.cpu_seconds() - cpu) / elapsed,
            "mean_batch": (after.samples - before.samples) / (after.batches - before.batches),
        }

    def poisson(self, model: str, rate: float, seed: int) -> Figures:
        """Open loop with Poisson arrivals by `hangtag loadtest`; latency counts from the planned time."""
        run = open_loop.run(self.server, model, rate, self.seconds, seed=seed)
        return {
            "p99_ms": run["latency"]["p99"] * 1e3 if run["latency"]["count"] else math.inf,
            "answered": run["statuses"].get("OK", 0) / run["queries"],
        }

    def highest_rate(self, model: str, bare: float, shares: Sequence[float] = SHARES) -> Figures:
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
        """Offer ten times the server's capacity twice, each call with a deadline; then send one call after another.

        The second overload is measured.

        To h2load a refused call is a success, so the server's statistics say how many calls were answered. Which of the
        calls that ended after their deadline were answered is not known: all of them count as answered, so the
        share that was answered in time is a lower bound.

        Returns:
            The capacity at 64 in flight, what was offered, the share of the capacity that was answered in time, the
            memory that was gained at most and kept afterwards (RSS), and the time until calls took their usual time.
        """
        capacity = self.closed(model, closed_loop("64"))["samples_per_s"]
        usual = h2load.run(self.server.url, model, Load(200))
        rate = OVERLOAD * capacity
        load = Load(round(rate * self.seconds), CONNECTIONS, OVERLOAD_STREAMS, rate=rate, deadline=DEADLINE)
        # The first overload has the first batches of the largest size, for which ONNX Runtime keeps memory ever after.
        h2load.run(self.server.url, model, load)
        self.server.forget_peak()
        memory = self.server.resident_mb()
        answered = self.server.answered(model).calls
        run = h2load.run(self.server.url, model, load)
        answered = self.server.answered(model).calls - answered
        peak = self.server.peak_mb()
        in_time = answered - sum(latency > DEADLINE for latency in run.latencies)
        seconds = load.calls / run.per_second
        after = h2load.run(self.server.url, model, Load(max(200, round(usual.per_second))))
        return {
            "capacity_per_s": capacity,
            "offered_per_s": load.calls / (run.starts[-1] - run.starts[0]),
            "in_time_share": max(0, in_time) / seconds / capacity,
            "gained_mb": max(0.0, peak - memory),
            "kept_mb": max(0.0, self.server.resident_mb() - memory),
            "recovery_s": _recovery(after, 2 * usual.percentile_ms(99)),
        }


def _recovery(after: h2load.Outcome, usual_ms: float) -> float:
    """Seconds until latency is usual again: the start of the first ten consecutive calls of usual latency."""
    quick = [seconds * 1e3 <= usual_ms for seconds in after.latencies]
    for place in range(len(quick) - 9):
        if all(quick[place : place + 10]):
            return after.starts[place]
    return after.starts[-1]
