"""Defines loads, the limits of a run and its blocks, and computes the schedule of an open loop."""

import math
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hangtag.serving.loadtest.record import stored


@dataclass(frozen=True)
class Limits:
    """The limits of a run, which ends when it has reached both minima or one of the maxima. Durations are in seconds,
    without the warm-up."""

    min_duration: float
    min_query_count: int
    max_duration: float
    max_query_count: int

    def reached(self, elapsed: float, queries: int) -> bool:
        # A schedule may end exactly at the minimum, so the tolerance allows for a rounding error.
        return elapsed >= self.min_duration - 1e-9 and queries >= self.min_query_count

    def exceeded(self, elapsed: float, queries: int) -> bool:
        return elapsed >= self.max_duration or queries >= self.max_query_count

    def per_block(self, blocks: int) -> "Limits":
        """Divide the limits by the number of blocks, so that all blocks together reach the run's limits."""
        counts = (math.ceil(count / blocks) for count in (self.min_query_count, self.max_query_count))
        return Limits(self.min_duration / blocks, next(counts), self.max_duration / blocks, next(counts))


Arrivals = Literal["poisson", "constant"]

LOWEST_RATE, MAX_RATE = 1.0, 1_000_000  # Queries per second.


@dataclass(frozen=True)
class ClosedLoop:
    """A load that keeps `concurrency` queries in flight: the next query is sent when an answer arrives.

    A closed loop measures the peak throughput. A closed loop cannot show the latency of independent users, because it
    sends fewer queries when the server stalls.
    """

    concurrency: int = stored("The number of queries in flight.")
    kind: Literal["closed loop"] = stored("The kind of load.", default="closed loop", init=False)
    rate: None = stored("Null, because only an open loop has a rate.", default=None, init=False)
    arrivals: None = stored("Null, because only an open loop has arrivals.", default=None, init=False)

    def __str__(self) -> str:
        return f"{self.concurrency:,} in flight"


@dataclass(frozen=True)
class OpenLoop:
    """A load that issues `rate` queries per second on average, at planned times that do not depend on answers."""

    rate: float = stored("The planned calls per second.")
    arrivals: Arrivals = stored("The distribution of the gaps between queries.", default="poisson")
    kind: Literal["open loop"] = stored("The kind of load.", default="open loop", init=False)
    concurrency: None = stored("Null, because only a closed loop has a concurrency.", default=None, init=False)

    def __str__(self) -> str:
        return f"{self.rate:,.6g} calls/s" + (" at equal gaps" if self.arrivals == "constant" else "")


Load = ClosedLoop | OpenLoop


@dataclass(frozen=True)
class Block:
    """A part of a run: queries to one target under one load, without a pause."""

    target: str
    load: Load
    limits: Limits
    warm_up: float  # The seconds before measuring starts.
    seed: int
    round: int  # Distinguishes the schedules of blocks with the same seed.
    start: float = 0.0  # A time on the monotonic clock that all processes of a machine share; 0 means now.


def sort_key(load: Load) -> tuple[bool, float]:
    """Return a sort key: first the closed loops, by concurrency, then the open loops, by rate."""
    return not isinstance(load, ClosedLoop), load.concurrency if isinstance(load, ClosedLoop) else load.rate


Times = npt.NDArray[np.float64]


def random_generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Return a random generator for one purpose (samples, schedule or order), independent of all other purposes."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *index])


def planned_send_times(load: OpenLoop, limits: Limits, warm_up: float, random: np.random.Generator) -> Times:
    """Compute the planned send times of one block [queries], in seconds from the block's start, including its warm-up.

    The gaps of a Poisson process are independent and exponentially distributed with mean 1 / rate. The limits apply to
    the queries after the warm-up: the schedule ends when both minima of `limits` are reached, or just before a maximum
    would be exceeded.
    """
    expected, before = load.rate * (warm_up + limits.min_duration), load.rate * warm_up
    # In practice, a Poisson count never exceeds its mean by more than ten standard deviations plus ten.
    count = max(expected + 10 * math.sqrt(expected), before + 10 * math.sqrt(before) + limits.min_query_count) + 10
    most = limits.max_query_count + before + 10 * math.sqrt(before) + 10
    size = math.ceil(min(count, most))
    poisson = load.arrivals == "poisson"
    times = np.cumsum(random.exponential(1 / load.rate, size) if poisson else np.full(size, 1 / load.rate))
    first = int(np.searchsorted(times, warm_up))  # The first query after the warm-up.
    by_minima = max(first + limits.min_query_count, int(np.searchsorted(times, warm_up + limits.min_duration)) + 1)
    by_maxima = min(first + limits.max_query_count, int(np.searchsorted(times, warm_up + limits.max_duration)))
    return times[: min(by_minima, by_maxima)]
