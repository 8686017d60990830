"""The two kinds of load: a closed loop keeps queries in flight, an open loop issues them at planned times."""

import math
from dataclasses import dataclass
from typing import Literal

Arrivals = Literal["poisson", "constant"]

MAX_RATE = 1_000_000  # Queries per second.


@dataclass(frozen=True)
class ClosedLoop:
    """Keeps `concurrency` queries in flight: the next query leaves when an answer arrives.

    A closed loop finds the peak throughput. It cannot show the latency of independent users, because it sends less to a
    server that stalls.
    """

    concurrency: int

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"--concurrency must be 1 or more, not {self.concurrency}")

    @property
    def kind(self) -> Literal["closed loop"]:
        """The kind of load, for reports."""
        return "closed loop"

    def __str__(self) -> str:
        return f"{self.concurrency:,} in flight"


@dataclass(frozen=True)
class OpenLoop:
    """Issues `rate` queries per second on average, at planned times, whether or not earlier queries were answered."""

    rate: float
    arrivals: Arrivals = "poisson"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"--rate must be above 0 calls/s, not {self.rate:g}")
        if self.rate > MAX_RATE:
            raise ValueError(f"--rate must be at most {MAX_RATE:,} calls/s, not {self.rate:g}")

    @property
    def kind(self) -> Literal["open loop"]:
        """The kind of load, for reports."""
        return "open loop"

    def __str__(self) -> str:
        return f"{self.rate:,.6g} calls/s" + (" at equal gaps" if self.arrivals == "constant" else "")


Load = ClosedLoop | OpenLoop


def sort_key(load: Load) -> tuple[bool, float]:
    """Sorts closed loops first, then each kind by concurrency or rate."""
    return not isinstance(load, ClosedLoop), load.concurrency if isinstance(load, ClosedLoop) else load.rate
