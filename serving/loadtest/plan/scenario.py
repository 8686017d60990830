"""Every setting of a load test, declared once: type, default, help and check. The CLI builds its options from Scenario.

The terms are MLPerf LoadGen's (query, sample, scenario, min_duration, min_query_count, target_latency) and
perf_analyzer's (closed loop, open loop, request rate, delayed request).
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from hangtag.serving.loadtest.plan.load import LOWEST_RATE, Arrivals, ClosedLoop, Limits, Load, OpenLoop
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.statistics import early_stopping
from hangtag.settings import flag_of, problems, setting

ScenarioName = Literal["single-stream", "multi-stream", "server", "offline"]

# LoadGen's scenarios: the settings that each scenario fixes unless the command sets them.
PRESETS: Mapping[ScenarioName, Mapping[str, Any]] = MappingProxyType(
    {
        # Single-sample queries, each sent when the previous query has been answered; judged by p90.
        "single-stream": {"concurrency": (1,), "percentile": 90.0},
        # Queries of eight samples, each sent when the previous query has been answered; judged by p99.
        "multi-stream": {"concurrency": (1,), "batch_size": 8, "percentile": 99.0},
        # Poisson arrivals at a rate; judged by whether the percentile keeps the target latency.
        "server": {"arrivals": "poisson", "percentile": 99.0},
        # All samples are available at once; judged by samples per second. LoadGen sends them in one query, which no
        # gRPC server accepts. Here a few large batches, enough to keep the server busy, are always in flight.
        "offline": {"concurrency": (8,), "batch_size": 32},
    }
)

DEFAULT_CONCURRENCIES = (1, 8, 64)
# A default run's open loop sends this share of the slowest target's closed-loop peak, the same rate to all targets.
SHARE_OF_PEAK = 0.5
# A peak search starts at SHARE_OF_PEAK of the throughput of one closed loop with this concurrency.
PEAK_CONCURRENCY = 64


@dataclass(frozen=True)
class Scenario:
    """One load test. The limits apply to one target under one load; durations are in seconds.

    Example:
        Scenario((Target("cnn", "cnn"),), rate=(500.0,), min_duration=60.0)

    Raises:
        ValueError: When a setting is out of range, or two settings contradict each other.
    """

    targets: tuple[Target, ...]
    scenario: ScenarioName | None = setting(
        None, "MLPerf LoadGen's scenario: sets the options that you leave out.", choices=get_args(ScenarioName)
    )
    concurrency: tuple[int, ...] = setting(
        (), "Closed loop: queries in flight, one run for each, e.g. 1,8,64.", listed=True
    )
    rate: tuple[float, ...] = setting((), "Open loop: calls per second, one run for each, e.g. 500,1000.", listed=True)
    arrivals: Arrivals = setting("poisson", "Open loop: the gaps between queries.", choices=get_args(Arrivals))
    find_peak: bool = setting(False, "Open loop: search the highest rate that keeps --target-latency.")
    target_latency: float | None = setting(
        None, "The bound that --percentile should keep, e.g. 10ms.", above=0, duration=True
    )
    percentile: float = setting(99.0, "The percentile by which a run is judged.")
    min_duration: float = setting(3.0, "Minimum duration for each target and load.", above=0, duration=True)
    min_query_count: int = setting(500, "Minimum number of queries; more if --percentile needs more.", at_least=1)
    max_duration: float = setting(60.0, "Maximum duration: a run that needs longer is INVALID.", duration=True)
    max_query_count: int = setting(1_000_000, "Maximum number of queries, even below --min-duration.")
    warm_up: float = setting(0.15, "Duration of the unmeasured load before each block.", at_least=0, duration=True)
    blocks: int = setting(5, "Parts of a run, interleaved with the other targets' parts.", at_least=1)
    batch_size: int = setting(1, "Samples in a query.", at_least=1)
    deadline: float = setting(10.0, "Of each call.", above=0, duration=True)
    # On one connection answers arrive in bursts, which costs least. A server of several processes needs several
    # connections.
    channels: int = setting(1, "gRPC connections from each process to a server.", at_least=1)
    processes: int | None = setting(None, "Generator processes.  [default: one for every four CPUs]", at_least=1)
    seed: int = setting(0, "Seed of the random samples, schedule and order.", at_least=0)

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("name at least one MODEL or --target")
        repeatable = (("the targets", self.names), ("--concurrency", self.concurrency), ("--rate", self.rate))
        for name, values in repeatable:
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ from each other: {', '.join(map(str, values))}")
        for declared, problem in problems(self):
            raise ValueError(f"{flag_of(declared)}: {problem}")
        if not 0 < self.percentile < 100:
            raise ValueError(f"--percentile must be between 0 and 100, not {self.percentile:g}")
        if self.max_duration < self.min_duration:
            raise ValueError(f"--max-duration {self.max_duration:g}s is below --min-duration {self.min_duration:g}s")
        if self.max_query_count < self.min_query_count:
            raise ValueError(
                f"--max-query-count {self.max_query_count} is below --min-query-count {self.min_query_count}"
            )
        if self.max_query_count < self.query_count:
            raise ValueError(
                f"judging a p{self.percentile:g} takes {self.query_count} queries, "
                f"and --max-query-count {self.max_query_count} is below that"
            )
        self._check_peak()
        _ = self.closed_loops, self.open_loops(math.inf)  # Each load checks itself.

    def _check_peak(self) -> None:
        if self.find_peak and self.target_latency is None:
            raise ValueError("--find-peak searches for the highest rate that keeps --target-latency: give that too")
        if self.find_peak and self.concurrency:
            raise ValueError("--find-peak is for rates: leave out --concurrency")
        if self.find_peak and len(self.rate) > 1:
            raise ValueError("--find-peak begins at one rate: give --rate one value")
        if self.find_peak and self.rate and self.rate[0] < self.lowest_rate:
            raise ValueError(
                f"--find-peak cannot judge a p{self.percentile:g} at {self.rate[0]:g} calls/s, since "
                f"{self.query_count:,} queries take longer than --max-duration: raise it, or begin at --rate "
                f"{math.ceil(self.lowest_rate)}"
            )
        if self.scenario == "server" and not (self.rate or self.find_peak):
            raise ValueError("--scenario server needs --rate, or --find-peak with --target-latency")

    @property
    def names(self) -> tuple[str, ...]:
        """The targets' names, in order."""
        return tuple(target.name for target in self.targets)

    @property
    def derives_rate(self) -> bool:
        """Whether the closed loops determine the open loop's rate, because neither concurrency nor rate is set."""
        return not (self.concurrency or self.rate or self.find_peak)

    @property
    def closed_loops(self) -> tuple[ClosedLoop, ...]:
        """The closed loops, which run first."""
        if self.find_peak and not self.rate:
            return (ClosedLoop(PEAK_CONCURRENCY),)
        return tuple(map(ClosedLoop, DEFAULT_CONCURRENCIES if self.derives_rate else self.concurrency))

    def open_loops(self, slowest_peak: float) -> tuple[OpenLoop, ...]:
        """The open loops, given the closed-loop peak throughput of the slowest target in queries per second."""
        if not self.derives_rate:
            return () if self.find_peak else tuple(OpenLoop(rate, self.arrivals) for rate in self.rate)
        rate = SHARE_OF_PEAK * slowest_peak
        if not (math.isfinite(rate) and rate > 0):
            return ()
        return (OpenLoop(rounded_down(rate), self.arrivals),)

    @property
    def planned_loads(self) -> tuple[Load, ...]:
        """The loads that are known before the run, that is, all except a rate that is derived from the closed loops."""
        return self.closed_loops + (() if self.derives_rate else self.open_loops(math.inf))

    @property
    def judged(self) -> bool:
        """Whether runs are judged by the percentile, so that a run too short to determine it is INVALID."""
        preset = PRESETS[self.scenario] if self.scenario else {}
        return self.target_latency is not None or "percentile" in preset

    @property
    def query_count(self) -> int:
        """How many queries a run needs: min_query_count, or more if judging the percentile needs more."""
        needed = early_stopping.samples_needed(0, self.percentile) if self.judged else 1
        return max(self.min_query_count, needed)

    @property
    def lowest_rate(self) -> float:
        """The lowest rate (queries per second) at which max_duration is enough for a result of a peak search."""
        # Poisson arrivals are hardly ever four standard deviations fewer than their mean m: m - 4 sqrt(m) = n.
        mean_arrivals = (2 + math.sqrt(self.query_count + 4)) ** 2
        return max(LOWEST_RATE, mean_arrivals / self.max_duration)

    @property
    def limits(self) -> Limits:
        """The limits of one target under one load."""
        return Limits(self.min_duration, self.query_count, self.max_duration, self.max_query_count)

    @property
    def generator_processes(self) -> int:
        """The number of generator processes: `processes`, or one for every four usable CPUs, at most eight.

        One process can send several times as many queries as a Python server can answer on one CPU.
        """
        return self.processes or min(8, max(1, len(os.sched_getaffinity(0)) // 4))

    @property
    def is_loopback(self) -> bool:
        """Whether every target can only be on this machine."""
        return all(target.is_loopback for target in self.targets)


def rounded_down(rate: float) -> float:
    """Round down to two significant digits, so that the rate is easy to type again."""
    unit = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return float(f"{math.floor(rate / unit) * unit:.2g}")
