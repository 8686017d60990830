"""Measures a route through a running server, with real images from the load test or with h2load."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.errors import LoadTestError
from hangtag.serving.loadtest.measuring.load_test import Extras, measure
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.plan.target import Target
from studies.results import Line
from studies.routes.repository import FAST, PLAIN, SHADOW, SHADOWED, SHARES, SPLIT
from studies.server import h2load
from studies.server.h2load import Load
from studies.server.process import Served

HALF = 0.5
_OPEN_LOOP = 4  # times as long as a closed loop, because few calls decide about a p99
_CONNECTIONS = 16


@dataclass(frozen=True)
class RouteBench:
    """A server under test.

    Args:
        server: Has the models of `repository`.
        samples: A folder with Fashion-MNIST's test images and labels.
        seconds: How long each load lasts at least.
    """

    server: Served
    samples: Path
    seconds: float

    def accuracy(self, models: Sequence[str]) -> Line:
        """The share of all test images that each model labels rightly, through the server."""
        found = self._run(models, True, concurrency=(1,), min_duration=0.05).accuracies
        return {name: accuracy.share for name, accuracy in found.items()} | {"images": next(iter(found.values())).total}

    def closed_loop(self, model: str, in_flight: int) -> Line:
        """Calls of one test image each: calls a second, latency, and the processor time of a call in the server."""
        return self._under_load(model, self.seconds, concurrency=(in_flight,))

    def open_loop(self, model: str, rate: float) -> Line:
        """The same with Poisson arrivals at a rate, and for longer; latency counts from the planned time."""
        return self._under_load(model, _OPEN_LOOP * self.seconds, rate=(rate,))

    def split(self, calls: int) -> Line:
        """Send calls to SPLIT, and count those that each member answered, by its own statistics."""
        before = {member: self.server.answered(member).calls for member in SHARES}
        h2load.run(self.server.url, SPLIT, Load(calls, clients=_CONNECTIONS, streams=4))
        counts = {member: self.server.answered(member).calls - before[member] for member in SHARES}
        if sum(counts.values()) != calls:
            raise click.ClickException(f"{sum(counts.values()):,} of {calls:,} calls were answered")
        # One member's count determines the other's.
        share = SHARES[FAST] / 100
        deviation = (counts[FAST] - calls * share) / math.sqrt(calls * share * (1 - share))
        return {"calls": calls, "counts": counts, "deviations": abs(deviation)}

    def shadow(self) -> Line:
        """The primary at half of its peak: without a shadow, with one that gets every call, and as busy without one.

        In the last run the server gets so many more calls that its processes take as much processor time as with the
        shadow. So its latency shows what that time alone costs.
        """
        peak = self.closed_loop(PLAIN, 64)["calls_per_s"]
        rate = HALF * peak
        alone = self.open_loop(PLAIN, rate)
        copies = self.server.answered(SHADOW).calls
        shadowed = self.open_loop(SHADOWED, rate)
        copies = self.server.answered(SHADOW).calls - copies
        busier = min(rate * shadowed["cpu_us"] / alone["cpu_us"], peak)
        return {
            "peak_per_s": peak,
            "rate_per_s": rate,
            "alone": alone,
            "shadowed": shadowed | {"copied": copies / shadowed["calls"]},
            "busier": self.open_loop(PLAIN, busier) | {"rate_per_s": busier},
        }

    def _under_load(self, model: str, seconds: float, **load: Any) -> Line:
        before, cpu = self.server.answered(model).calls, self.server.cpu_seconds()
        (run,) = self._run([model], False, min_duration=seconds, **load).runs
        cpu = self.server.cpu_seconds() - cpu
        calls = self.server.answered(model).calls - before
        total = run.total
        if total.failed:
            raise click.ClickException(f"calls to {model} failed: {dict(total.statuses)}")
        return {
            "calls_per_s": run.throughput,
            "p50_ms": total.latency.percentile(50) * 1e3,
            "p99_ms": total.latency.percentile(99) * 1e3,
            "cpu_us": cpu / calls * 1e6,
            "calls": calls,
        }

    def _run(self, models: Sequence[str], accuracy: bool, **settings: Any) -> Results:
        targets = tuple(Target(model, model, self.server.address) for model in models)
        scenario = Scenario(targets, min_query_count=1, blocks=1, processes=1, **settings)
        extras = Extras(samples=self.samples, accuracy=accuracy)
        try:
            return measure(scenario, extras, Credentials(), threading.Event(), lambda _progress: None)
        except LoadTestError as error:
            raise click.ClickException(str(error)) from error
