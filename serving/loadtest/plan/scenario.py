"""Declares the targets of a load test, and all its settings with type, default, help and check. The terms are from
MLPerf LoadGen (query, sample, scenario) and from perf_analyzer (closed loop, open loop, request rate)."""

import ipaddress
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hangtag.serving import address as server_address
from hangtag.serving.loadtest.plan.load import LOWEST_RATE, MAX_RATE, Arrivals, ClosedLoop, Limits, Load, OpenLoop
from hangtag.serving.loadtest.statistics.intervals import samples_needed
from hangtag.settings import flag_of, problems, setting

Method = Literal["infer", "classify"]


@dataclass(frozen=True)
class Target:
    """A model on a server. Raises ValueError."""

    name: str  # The name in reports.
    model: str  # The model's name on the server.
    address: str = server_address.DEFAULT  # HOST:PORT, an address for one of gRPC's name resolvers, or a URL for HTTP.
    method: Method = "infer"  # The Open Inference Protocol's ModelInfer, or hangtag's Classify.
    version: str = ""  # The model version that every request names; empty for the version that serves by default.

    def __post_init__(self) -> None:
        server_address.require(self.address)

    @property
    def is_loopback(self) -> bool:
        """Whether the address always leads to this machine."""
        if self.address.startswith(("unix:", "unix-abstract:")):
            return True
        host, _ = server_address.endpoint(self.address) or ("", 0)
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def target_of(model: str, address: str = server_address.DEFAULT, method: Method = "infer", name: str = "") -> Target:
    """Parse MODEL or MODEL@VERSION. Without a name, this text is also the target's name. Raises ValueError."""
    served, at, version = model.partition("@")
    if (at and not (served and version)) or "@" in version:
        raise ValueError(f"{model!r} is not a model's version: write MODEL@VERSION, for example cnn@2, or only MODEL")
    return Target(name or model, served, address, method, version)


def parse_target(text: str, method: Method = "infer") -> Target:
    """Parse NAME=ADDRESS/MODEL or NAME=ADDRESS/MODEL@VERSION. ADDRESS is HOST:PORT or a URL. Raises ValueError."""
    match = re.fullmatch(r"([^=/]+)=([^/=]+:\d+|https?://[^=?#]+)/([^/=]+)", text, re.IGNORECASE)
    if match is None:
        example = f"old={server_address.DEFAULT}/cnn or rest={server_address.DEFAULT_URL}/cnn"
        raise ValueError(f"{text!r} is not a target: write NAME=HOST:PORT/MODEL[@VERSION], for example {example}")
    name, address, model = match.groups()
    return target_of(model, address, method, name)


ScenarioName = Literal["single-stream", "multi-stream", "server", "offline"]

# The settings of LoadGen's scenarios, which apply to options that the user does not set.
PRESETS: Mapping[ScenarioName, Mapping[str, Any]] = {
    # Queries of one sample, each sent when the previous query has been answered. Runs are judged by p90.
    "single-stream": {"concurrency": (1,), "percentile": 90.0},
    # Queries of eight samples, each sent when the previous query has been answered. Runs are judged by p99.
    "multi-stream": {"concurrency": (1,), "batch_size": 8, "percentile": 99.0},
    # Poisson arrivals at a rate. Runs are judged by whether the percentile meets the target latency.
    "server": {"arrivals": "poisson", "percentile": 99.0},
    # All samples are available from the start. Runs are judged by samples per second. LoadGen sends all samples in
    # one query, which no gRPC server accepts. Instead, this load test keeps a few large batches in flight, which
    # keep the server busy.
    "offline": {"concurrency": (8,), "batch_size": 32},
}

DEFAULT_CONCURRENCIES = (1, 8, 64)
# By default, the rate of the open loop for all targets is this share of the slowest target's closed-loop peak.
SHARE_OF_PEAK = 0.5
# A peak search first runs a closed loop with this concurrency. The first rate that the search tries is
# SHARE_OF_PEAK * (this loop's throughput).
PEAK_CONCURRENCY = 64


@dataclass(frozen=True)
class Scenario:
    """The settings of a load test. The limits apply to one target under one load. Durations are in seconds.

    Example:
        Scenario((Target("cnn", "cnn"),), rate=(500.0,), min_duration=60.0)

    Raises:
        ValueError: A setting is out of range, or two settings contradict each other.
    """

    targets: tuple[Target, ...]
    scenario: ScenarioName | None = setting(
        None,
        "A scenario of MLPerf LoadGen. It sets the options that you do not set.",
        choices=get_args(ScenarioName),
    )
    concurrency: tuple[int, ...] = setting(
        (), "Closed loop: the queries in flight in each run, such as 1,8,64.", listed=True, between=(1, None)
    )
    rate: tuple[float, ...] = setting(
        (), "Open loop: the calls per second in each run, such as 500,1000.", listed=True, above=0
    )
    arrivals: Arrivals = setting(
        "poisson", "Open loop: the distribution of the gaps between queries.", choices=get_args(Arrivals)
    )
    find_peak: bool = setting(False, "Open loop: search for the highest rate that meets --target-latency.")
    target_latency: float | None = setting(
        None, "The limit for the latency at --percentile, such as 10ms.", above=0, duration=True
    )
    percentile: float = setting(99.0, "The percentile of the latency by which a run is judged.")
    min_duration: float = setting(3.0, "The minimum duration for each target and load.", above=0, duration=True)
    min_query_count: int = setting(500, "The minimum number of queries. --percentile may need more.", between=(1, None))
    max_duration: float = setting(60.0, "The maximum duration. A run that needs more time is INVALID.", duration=True)
    max_query_count: int = setting(1_000_000, "The maximum number of queries, even before --min-duration has passed.")
    warm_up: float = setting(
        0.15, "The duration of the unmeasured load before each block.", between=(0, None), duration=True
    )
    blocks: int = setting(5, "The number of blocks in each run.", between=(1, None))
    batch_size: int = setting(1, "The number of samples in a query.", between=(1, None))
    deadline: float = setting(10.0, "The deadline of each call.", above=0, duration=True)
    # With one connection, the generator needs the least CPU time, because answers arrive in bursts. A server of several
    # processes needs several connections.
    channels: int = setting(1, "The number of gRPC connections from each process to a server.", between=(1, None))
    processes: int | None = setting(
        None, "The number of generator processes.  [default: one for every four CPUs]", between=(1, None)
    )
    seed: int = setting(0, "The seed for random samples, their order and the schedule.", between=(0, None))

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("give at least one MODEL or --target")
        repeatable = (("the targets", self.names), ("--concurrency", self.concurrency), ("--rate", self.rate))
        for name, values in repeatable:
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must all be different, but are {', '.join(map(str, values))}")
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
                f"--max-query-count {self.max_query_count} is too low, because judging a p{self.percentile:g} needs "
                f"{self.query_count} queries"
            )
        if max(self.rate, default=0) > MAX_RATE:
            raise ValueError(f"--rate must be at most {MAX_RATE:,} calls/s, not {max(self.rate):g}")
        if self.find_peak and self.target_latency is None:
            raise ValueError("--find-peak needs --target-latency, which the highest rate must meet")
        if self.find_peak and self.concurrency:
            raise ValueError("--find-peak searches for a rate, so leave out --concurrency")
        if self.find_peak and len(self.rate) > 1:
            raise ValueError("--find-peak begins at a single rate, so give --rate only one value")
        if self.find_peak and self.rate and self.rate[0] < self.lowest_rate:
            raise ValueError(
                f"--find-peak cannot judge a p{self.percentile:g} at {self.rate[0]:g} calls/s, because "
                f"{self.query_count:,} queries take longer than --max-duration: raise it, or begin at --rate "
                f"{math.ceil(self.lowest_rate)}"
            )
        if self.scenario == "server" and not (self.rate or self.find_peak):
            raise ValueError("--scenario server needs --rate, or --find-peak with --target-latency")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(target.name for target in self.targets)

    @property
    def derives_rate(self) -> bool:
        """True if no concurrency, rate or peak search is set; closed loops then determine the open loop's rate."""
        return not (self.concurrency or self.rate or self.find_peak)

    @property
    def closed_loops(self) -> tuple[ClosedLoop, ...]:
        """The closed loops, which run first."""
        if self.find_peak and not self.rate:
            return (ClosedLoop(PEAK_CONCURRENCY),)
        return tuple(map(ClosedLoop, DEFAULT_CONCURRENCIES if self.derives_rate else self.concurrency))

    def open_loops(self, slowest_peak: float) -> tuple[OpenLoop, ...]:
        """Return the open loops. `slowest_peak` is the slowest target's peak in closed loops, in queries per second."""
        if not self.derives_rate:
            return () if self.find_peak else tuple(OpenLoop(rate, self.arrivals) for rate in self.rate)
        rate = SHARE_OF_PEAK * slowest_peak
        if not (math.isfinite(rate) and rate > 0):
            return ()
        # Two significant digits are easy to type.
        unit = 10.0 ** (math.floor(math.log10(rate)) - 1)
        return (OpenLoop(float(f"{math.floor(rate / unit) * unit:.2g}"), self.arrivals),)

    @property
    def planned_loads(self) -> tuple[Load, ...]:
        """The loads that are known before the run: all except open loops whose rate depends on the closed loops."""
        return self.closed_loops + (() if self.derives_rate else self.open_loops(math.inf))

    @property
    def judged(self) -> bool:
        """Whether runs are judged by the percentile. A judged run with too few queries is INVALID."""
        return self.target_latency is not None or "percentile" in (PRESETS[self.scenario] if self.scenario else {})

    @property
    def query_count(self) -> int:
        """The number of queries that a run needs: min_query_count, or more if judging the percentile needs more."""
        return max(self.min_query_count, samples_needed(0, self.percentile) if self.judged else 1)

    @property
    def lowest_rate(self) -> float:
        """The lowest rate in queries per second at which a run of max_duration has enough queries for a peak search."""
        # The number of Poisson arrivals is hardly ever more than four standard deviations below its mean m, so n
        # arrivals need a mean with m - 4 sqrt(m) = n.
        mean_arrivals = (2 + math.sqrt(self.query_count + 4)) ** 2
        return max(LOWEST_RATE, mean_arrivals / self.max_duration)

    @property
    def limits(self) -> Limits:
        return Limits(self.min_duration, self.query_count, self.max_duration, self.max_query_count)

    @property
    def generator_processes(self) -> int:
        """The number of generator processes: `processes` if set, else one per four usable CPUs, at most eight. One
        process can send several times as many queries as a Python server can answer on one CPU."""
        return self.processes or min(8, max(1, len(os.sched_getaffinity(0)) // 4))

    @property
    def is_loopback(self) -> bool:
        return all(target.is_loopback for target in self.targets)
