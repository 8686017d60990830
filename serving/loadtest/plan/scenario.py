"""What is asked of a load test: frozen values, validated on construction. The command's options default to them.

The words are MLPerf LoadGen's (query, sample, scenario, min_duration, min_query_count, target_latency) and
perf_analyzer's (closed loop, open loop, request rate, delayed request).
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from hangtag.serving.loadtest.plan.load import Arrivals, ClosedLoop, Limits, OpenLoop
from hangtag.serving.loadtest.plan.peak_search import LOWEST_RATE
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.statistics import early_stopping

ScenarioName = Literal["single-stream", "multi-stream", "server", "offline"]

# LoadGen's scenarios in the words of this load test: the settings that each one fixes unless the command gives others.
PRESETS: Mapping[ScenarioName, Mapping[str, Any]] = MappingProxyType(
    {
        # The next query of one sample leaves when the last is answered; judged by p90.
        "single-stream": {"concurrency": (1,), "percentile": 90.0},
        # The next query of eight samples leaves when the last is answered; judged by p99.
        "multi-stream": {"concurrency": (1,), "batch_size": 8, "percentile": 99.0},
        # Poisson arrivals at a rate; judged by whether the percentile keeps the target latency.
        "server": {"arrivals": "poisson", "percentile": 99.0},
        # All samples are there at once; judged by samples a second. LoadGen hands them over in one query, which no gRPC
        # server takes: here as many large batches as keep the server busy are always under way.
        "offline": {"concurrency": (8,), "batch_size": 32},
    }
)

DEFAULT_CONCURRENCIES = (1, 8, 64)
# A default run's open loop: this share of what the slowest target reached in the closed loops, for all targets alike.
SHARE_OF_PEAK = 0.5
# Where a search for the highest rate begins, counted in the same way: one closed loop of so many in flight.
PEAK_CONCURRENCY = 64


@dataclass(frozen=True)
class Scenario:
    """One load test. Every limit counts for one target under one load; times are in seconds. Raises ValueError."""

    targets: tuple[Target, ...]
    scenario: ScenarioName | None = None
    concurrency: tuple[int, ...] = ()
    rate: tuple[float, ...] = ()
    arrivals: Arrivals = "poisson"
    find_peak: bool = False
    target_latency: float | None = None
    percentile: float = 99.0
    min_duration: float = 3.0
    # More where the percentile that a run is judged by takes more (query_count).
    min_query_count: int = 500
    max_duration: float = 60.0
    max_query_count: int = 1_000_000
    warm_up: float = 0.15
    blocks: int = 5
    batch_size: int = 1
    deadline: float = 10.0
    # One a process: on one connection the answers come in bursts, which costs least. A server of several processes
    # needs several all the same.
    channels: int = 1
    processes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("name at least one model or target")
        names = tuple(target.name for target in self.targets)
        for what, values in (("targets", names), ("concurrency", self.concurrency), ("rate", self.rate)):
            if len(set(values)) != len(values):
                raise ValueError(f"{what} names something twice: {', '.join(map(str, values))}")
        for name in ("min_duration", "deadline", "target_latency"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is above 0 s, not {value:g}")
        for name in ("warm_up", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is 0 or more, not {getattr(self, name):g}")
        for name in ("min_query_count", "blocks", "batch_size", "channels", "processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is 1 or more, not {value}")
        if not 0 < self.percentile < 100:
            raise ValueError(f"percentile lies between 0 and 100, not at {self.percentile:g}")
        if self.max_duration < self.min_duration or self.max_query_count < self.min_query_count:
            raise ValueError("a maximum (max_duration, max_query_count) lies below its minimum")
        if self.max_query_count < self.query_count:
            raise ValueError(
                f"a p{self.percentile:g} takes {self.query_count:,} queries to tell: max_query_count is at least that"
            )
        self._check_peak()
        _ = self.closed_loops, self.open_loops(math.inf)  # Each load checks itself.

    def _check_peak(self) -> None:
        if self.find_peak and self.target_latency is None:
            raise ValueError("find_peak searches for the highest rate that keeps a target_latency: give one")
        if self.find_peak and self.concurrency:
            raise ValueError("find_peak is for rates: leave out the concurrency")
        if self.find_peak and len(self.rate) > 1:
            raise ValueError("find_peak begins at one rate, not at several")
        if self.find_peak and self.rate and self.rate[0] < self.lowest_rate:
            raise ValueError(
                f"find_peak cannot tell a p{self.percentile:g} at {self.rate[0]:g} calls/s, since {self.query_count:,} "
                f"queries take longer than max_duration: raise it, or begin at {math.ceil(self.lowest_rate):,} calls/s"
            )
        if self.scenario == "server" and not (self.rate or self.find_peak):
            raise ValueError("the server scenario needs a rate, or find_peak with a target_latency")

    @property
    def names(self) -> tuple[str, ...]:
        """The targets' names, in their order."""
        return tuple(target.name for target in self.targets)

    @property
    def derives_rate(self) -> bool:
        """Neither concurrencies nor rates were asked for: the open loop's rate comes from the closed loops."""
        return not (self.concurrency or self.rate or self.find_peak)

    @property
    def closed_loops(self) -> tuple[ClosedLoop, ...]:
        """The closed loops, which run first."""
        if self.find_peak and not self.rate:
            return (ClosedLoop(PEAK_CONCURRENCY),)
        return tuple(map(ClosedLoop, DEFAULT_CONCURRENCIES if self.derives_rate else self.concurrency))

    def open_loops(self, slowest_peak: float) -> tuple[OpenLoop, ...]:
        """The open loops, given the highest throughput (calls/s) that the slowest target reached in a closed loop."""
        if not self.derives_rate:
            return () if self.find_peak else tuple(OpenLoop(rate, self.arrivals) for rate in self.rate)
        rate = SHARE_OF_PEAK * slowest_peak
        if not (math.isfinite(rate) and rate > 0):
            return ()
        return (OpenLoop(rounded_down(rate), self.arrivals),)

    @property
    def judged(self) -> bool:
        """Whether the percentile is what a run is about: a run too short to tell it is then INVALID."""
        preset = PRESETS[self.scenario] if self.scenario else {}
        return self.target_latency is not None or "percentile" in preset

    @property
    def query_count(self) -> int:
        """How many queries a run takes at least: min_query_count, or what a percentile that it is judged by takes."""
        needed = early_stopping.samples_needed(0, self.percentile) if self.judged else 1
        return max(self.min_query_count, needed)

    @property
    def lowest_rate(self) -> float:
        """The lowest rate (calls/s) at which a search can tell anything within max_duration."""
        # Poisson arrivals are hardly ever fewer than on average by four standard deviations: m - 4 sqrt(m) = n.
        on_average = (2 + math.sqrt(self.query_count + 4)) ** 2
        return max(LOWEST_RATE, on_average / self.max_duration)

    @property
    def limits(self) -> Limits:
        """The limits of one target under one load."""
        return Limits(self.min_duration, self.query_count, self.max_duration, self.max_query_count)

    @property
    def generator_processes(self) -> int:
        """How many processes send: those asked for, else one for every four CPUs that may be used, at most eight.

        One process sends several times what a server of the same language takes in from one CPU.
        """
        return self.processes or min(8, max(1, len(os.sched_getaffinity(0)) // 4))

    @property
    def is_loopback(self) -> bool:
        """Whether every target can only be on this machine."""
        return all(target.is_loopback for target in self.targets)


def rounded_down(rate: float) -> float:
    """Rounded down to two significant digits: a rate that a person can repeat."""
    unit = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return float(f"{math.floor(rate / unit) * unit:.2g}")
