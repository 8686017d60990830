"""Every setting of a load test, declared once: type, default, help text and check. The CLI builds its options from it.

The terms are MLPerf LoadGen's (query, sample, scenario, min_duration, min_query_count, target_latency) and
perf_analyzer's (closed loop, open loop, request rate, delayed request).
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import Arrivals, ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.plan.peak_search import LOWEST_RATE
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.statistics import early_stopping

ScenarioName = Literal["single-stream", "multi-stream", "server", "offline"]

# LoadGen's scenarios: the settings that each one fixes unless the command sets them.
PRESETS: Mapping[ScenarioName, Mapping[str, Any]] = MappingProxyType(
    {
        # The next query of one sample leaves when the last is answered; judged by p90.
        "single-stream": {"concurrency": (1,), "percentile": 90.0},
        # The next query of eight samples leaves when the last is answered; judged by p99.
        "multi-stream": {"concurrency": (1,), "batch_size": 8, "percentile": 99.0},
        # Poisson arrivals at a rate; judged by whether the percentile keeps the target latency.
        "server": {"arrivals": "poisson", "percentile": 99.0},
        # All samples are available at once; judged by samples per second. LoadGen issues them in one query, which no
        # gRPC server takes; here a few large batches, enough to keep the server busy, are always in flight.
        "offline": {"concurrency": (8,), "batch_size": 32},
    }
)

DEFAULT_CONCURRENCIES = (1, 8, 64)
# A default run's open loop sends this share of the slowest target's closed-loop peak, the same rate to all targets.
SHARE_OF_PEAK = 0.5
# A peak search starts at SHARE_OF_PEAK of the throughput of one closed loop with this concurrency.
PEAK_CONCURRENCY = 64


def _setting(help_text: str, **limits: float) -> dict[str, Any]:
    """Field metadata: the option's help, and `above` or `at_least`, the smallest values."""
    return {"help": help_text, "unit": "", **limits}


def _seconds(help_text: str, **limits: float) -> dict[str, Any]:
    return _setting(help_text, **limits) | {"unit": "s"}


@dataclass(frozen=True)
class Scenario:
    """One load test. The limits apply to one target under one load; durations are in seconds.

    Example:
        Scenario((Target("cnn", "cnn"),), rate=(500.0,), min_duration=60.0)

    Raises:
        ValueError: When a setting is out of range, or two settings contradict each other.
    """

    targets: tuple[Target, ...]
    scenario: ScenarioName | None = field(
        default=None, metadata=_setting("One of MLPerf LoadGen's scenarios: it sets the options that you leave out.")
    )
    concurrency: tuple[int, ...] = field(
        default=(), metadata=_setting("Closed loop: queries in flight, a run for each, e.g. 1,8,64.")
    )
    rate: tuple[float, ...] = field(
        default=(), metadata=_setting("Open loop: calls a second, a run for each, e.g. 500,1000.")
    )
    arrivals: Arrivals = field(default="poisson", metadata=_setting("Open loop: the gaps between queries."))
    find_peak: bool = field(
        default=False, metadata=_setting("Open loop: search the highest rate that keeps --target-latency.")
    )
    target_latency: float | None = field(
        default=None, metadata=_seconds("The bound that --percentile should keep, e.g. 10ms.", above=0)
    )
    percentile: float = field(default=99.0, metadata=_setting("The percentile that a run is judged by."))
    min_duration: float = field(
        default=3.0, metadata=_seconds("Measure at least this long, per target and load.", above=0)
    )
    min_query_count: int = field(
        default=500, metadata=_setting("And at least this many queries, or as many as --percentile needs.", at_least=1)
    )
    max_duration: float = field(default=60.0, metadata=_seconds("But never longer: a run that needs more is INVALID."))
    max_query_count: int = field(default=1_000_000, metadata=_setting("And never more queries."))
    warm_up: float = field(default=0.15, metadata=_seconds("Before each block, not measured.", at_least=0))
    blocks: int = field(
        default=5, metadata=_setting("Parts of a run, interleaved with the other targets' parts.", at_least=1)
    )
    batch_size: int = field(default=1, metadata=_setting("Samples in a query.", at_least=1))
    deadline: float = field(default=10.0, metadata=_seconds("Of each call.", above=0))
    # On one connection answers arrive in bursts, which costs least; a server of several processes needs several.
    channels: int = field(
        default=1,
        metadata=_setting(
            "gRPC connections of each process to a server. Over HTTP each call in flight has one.", at_least=1
        ),
    )
    processes: int | None = field(
        default=None, metadata=_setting("Generator processes.  [default: one for every four CPUs]", at_least=1)
    )
    seed: int = field(default=0, metadata=_setting("Seeds samples, schedule and order, each separately.", at_least=0))

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("name at least one MODEL or --target")
        repeatable = (("the targets", self.names), ("--concurrency", self.concurrency), ("--rate", self.rate))
        for name, values in repeatable:
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ from each other: {', '.join(map(str, values))}")
        for setting in fields(self):
            _check_range(f"--{setting.name.replace('_', '-')}", getattr(self, setting.name), setting.metadata)
        if not 0 < self.percentile < 100:
            raise ValueError(f"--percentile must lie between 0 and 100, not at {self.percentile:g}")
        if self.max_duration < self.min_duration:
            raise ValueError(f"--max-duration {self.max_duration:g}s is below --min-duration {self.min_duration:g}s")
        if self.max_query_count < self.min_query_count:
            raise ValueError(
                f"--max-query-count {self.max_query_count} is below --min-query-count {self.min_query_count}"
            )
        if self.max_query_count < self.query_count:
            raise ValueError(
                f"it takes {self.query_count} queries to judge a p{self.percentile:g}, "
                f"and --max-query-count {self.max_query_count} is below that"
            )
        self._check_peak()
        _ = self.closed_loops, self.open_loops(math.inf)  # Each load checks itself.

    def _check_peak(self) -> None:
        if self.find_peak and self.target_latency is None:
            raise ValueError("--find-peak searches for the highest rate that keeps --target-latency: give one")
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
        """Whether the open loop's rate is derived from the closed loops, as no concurrency and no rate is set."""
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
        """The loads that are known before the run: all but a rate that is derived from the closed loops."""
        return self.closed_loops + (() if self.derives_rate else self.open_loops(math.inf))

    @property
    def judged(self) -> bool:
        """Whether runs are judged by the percentile: a run too short to tell it is then INVALID."""
        preset = PRESETS[self.scenario] if self.scenario else {}
        return self.target_latency is not None or "percentile" in preset

    @property
    def query_count(self) -> int:
        """The queries that a run needs: min_query_count, or more where it is judged by a percentile that needs more."""
        needed = early_stopping.samples_needed(0, self.percentile) if self.judged else 1
        return max(self.min_query_count, needed)

    @property
    def lowest_rate(self) -> float:
        """The lowest rate (queries per second) at which a peak search can tell anything within max_duration."""
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

        One process sends several times what a Python server can answer on one CPU.
        """
        return self.processes or min(8, max(1, len(os.sched_getaffinity(0)) // 4))

    @property
    def is_loopback(self) -> bool:
        """Whether every target can only be on this machine."""
        return all(target.is_loopback for target in self.targets)


def _check_range(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if value is None or not {"above", "at_least"} & set(metadata):
        return
    unit = metadata.get("unit") and f" {metadata['unit']}"
    if value <= metadata.get("above", -math.inf):
        raise ValueError(f"{name} must be above {metadata['above']:g}{unit}, not {value:g}")
    if value < metadata.get("at_least", -math.inf):
        raise ValueError(f"{name} must be {metadata['at_least']:g}{unit} or more, not {value:g}")


def rounded_down(rate: float) -> float:
    """Round down to two significant digits: a rate that a person can repeat."""
    unit = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return float(f"{math.floor(rate / unit) * unit:.2g}")
