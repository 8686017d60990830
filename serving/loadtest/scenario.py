"""What is asked of a load test: frozen values, validated on construction. The command's options default to them.

The words are MLPerf LoadGen's (query, sample, scenario, min_duration, min_query_count) and perf_analyzer's (closed
loop, open loop, request rate, delayed request).
"""

import ipaddress
import math
from dataclasses import dataclass
from typing import Literal

Arrivals = Literal["poisson", "constant"]

DEFAULT_CONCURRENCIES = (1, 8, 64)
# A default run's open loop: this share of what the slowest model reached in the closed loops, for all models alike.
SHARE_OF_PEAK = 0.5
MAX_RATE = 1_000_000


@dataclass(frozen=True)
class ClosedLoop:
    """A fixed number of queries in flight: the next one leaves when an answer arrives.

    It finds the peak throughput. It cannot show what waiting users see: a server that stalls is sent less.
    """

    concurrency: int

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"a concurrency is 1 or more, not {self.concurrency}")

    @property
    def kind(self) -> Literal["closed loop"]:
        """The sort of load."""
        return "closed loop"

    def __str__(self) -> str:
        return f"{self.concurrency:,} in flight"


@dataclass(frozen=True)
class OpenLoop:
    """Queries leave at planned times, `rate` a second on average, whether or not earlier ones were answered."""

    rate: float
    arrivals: Arrivals = "poisson"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"a request rate is above 0 calls/s, not {self.rate:g}")
        if self.rate > MAX_RATE:
            raise ValueError(f"a request rate is at most {MAX_RATE:,} calls/s, not {self.rate:g}")

    @property
    def kind(self) -> Literal["open loop"]:
        """The sort of load."""
        return "open loop"

    def __str__(self) -> str:
        return f"{self.rate:,.6g} calls/s" + (" at equal gaps" if self.arrivals == "constant" else "")


Load = ClosedLoop | OpenLoop


@dataclass(frozen=True)
class Limits:
    """When measuring ends: once both minima are reached, or one of the maxima is. Times in seconds."""

    min_duration: float
    min_query_count: int
    max_duration: float
    max_query_count: int

    def reached(self, elapsed: float, queries: int) -> bool:
        """Whether both minima are reached."""
        return elapsed >= self.min_duration and queries >= self.min_query_count

    def exceeded(self, elapsed: float, queries: int) -> bool:
        """Whether one of the maxima is reached."""
        return elapsed >= self.max_duration or queries >= self.max_query_count

    def share(self, parts: int) -> "Limits":
        """The limits of one of `parts` blocks that together fulfil these."""
        return Limits(
            min_duration=self.min_duration / parts,
            min_query_count=math.ceil(self.min_query_count / parts),
            max_duration=self.max_duration / parts,
            max_query_count=math.ceil(self.max_query_count / parts),
        )


@dataclass(frozen=True)
class Scenario:
    """One load test. Every limit counts for one model under one load; times are in seconds. Raises ValueError."""

    models: tuple[str, ...]
    server: str = "127.0.0.1:8001"
    concurrency: tuple[int, ...] = ()
    rate: tuple[float, ...] = ()
    arrivals: Arrivals = "poisson"
    min_duration: float = 3.0
    # p99 with no sample over the bound needs 459 for 99 % confidence (the binomial of LoadGen's early stopping).
    min_query_count: int = 500
    max_duration: float = 60.0
    max_query_count: int = 1_000_000
    warm_up: float = 0.15
    blocks: int = 5
    batch_size: int = 1
    deadline: float = 10.0
    # One: gRPC's Python API starts a thread whenever a channel wakes from having nothing in flight, which makes an open
    # loop's sends late, the more channels the later. A server of several processes needs several all the same.
    channels: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("name at least one model")
        for name in ("models", "concurrency", "rate"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} names something twice: {', '.join(map(str, values))}")
        for name in ("min_duration", "deadline"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is above 0 s, not {getattr(self, name):g}")
        for name in ("warm_up", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is 0 or more, not {getattr(self, name):g}")
        for name in ("min_query_count", "blocks", "batch_size", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")
        if self.max_duration < self.min_duration or self.max_query_count < self.min_query_count:
            raise ValueError("a maximum (max_duration, max_query_count) lies below its minimum")
        _ = self.closed_loops, self.open_loops(math.inf)  # Each load checks itself.

    @property
    def derives_rate(self) -> bool:
        """Neither concurrencies nor rates were asked for: the open loop's rate comes from the closed loops."""
        return not self.concurrency and not self.rate

    @property
    def closed_loops(self) -> tuple[ClosedLoop, ...]:
        """The closed loops, which run first."""
        return tuple(map(ClosedLoop, DEFAULT_CONCURRENCIES if self.derives_rate else self.concurrency))

    def open_loops(self, slowest_peak: float) -> tuple[OpenLoop, ...]:
        """The open loops, given the highest throughput (calls/s) that the slowest model reached in a closed loop."""
        if not self.derives_rate:
            return tuple(OpenLoop(rate, self.arrivals) for rate in self.rate)
        rate = SHARE_OF_PEAK * slowest_peak
        if not (math.isfinite(rate) and rate > 0):
            return ()
        return (OpenLoop(_two_digits(rate), self.arrivals),)

    @property
    def limits(self) -> Limits:
        """The limits of one model under one load."""
        return Limits(self.min_duration, self.min_query_count, self.max_duration, self.max_query_count)

    @property
    def is_loopback(self) -> bool:
        """Whether the server's address can only be this machine."""
        if self.server.startswith(("unix:", "unix-abstract:")):
            return True
        host = self.server.rpartition(":")[0].strip("[]")
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def _two_digits(rate: float) -> float:
    """Rounded down to two significant digits: a rate that a person can repeat."""
    unit = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return float(f"{math.floor(rate / unit) * unit:.2g}")
