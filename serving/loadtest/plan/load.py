"""The loads that a target is put under, and when a run under one ends."""

import math
from dataclasses import dataclass
from typing import Literal

Arrivals = Literal["poisson", "constant"]

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


def order_of(load: Load) -> tuple[bool, float]:
    """How loads are sorted: closed loops first, each kind by its amount."""
    return not isinstance(load, ClosedLoop), load.concurrency if isinstance(load, ClosedLoop) else load.rate


@dataclass(frozen=True)
class Limits:
    """When measuring ends: once both minima are reached, or one of the maxima is. Times in seconds."""

    min_duration: float
    min_query_count: int
    max_duration: float
    max_query_count: int

    def reached(self, elapsed: float, queries: int) -> bool:
        """Whether both minima are reached."""
        # A schedule may end just where the minimum does: rounding must not make it too short.
        return elapsed >= self.min_duration - 1e-9 and queries >= self.min_query_count

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
