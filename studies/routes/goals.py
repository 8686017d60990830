"""The goals of routes as data, and their figures in a round of the measurement."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from studies.results import Line
from studies.routes.repository import ACCURATE

LOADS = (1, 4, 16, 64)
"""Calls in flight."""


@dataclass(frozen=True)
class Goal:
    """A bound for the median over the rounds of one figure.

    Args:
        name: What the figure is, for a reader.
        bound: Of the figure.
        figure: Computes it from one round; None where the round lacks what it takes.
        more_is_better: Whether the figure must be at least the bound, and not at most.
        digits: After the point, of the figure.
    """

    name: str
    bound: float
    figure: Callable[[Line], float | None]
    more_is_better: bool = False
    digits: int = 2

    def values(self, rounds: Sequence[Line]) -> list[float]:
        """The figure of each round that has it."""
        return [value for value in map(self.figure, rounds) if value is not None]

    def reached(self, values: Sequence[float]) -> bool:
        """Whether the median of these values is within the bound."""
        median = statistics.median(values)
        return median >= self.bound if self.more_is_better else median <= self.bound


def ratio(load: int, figure: str) -> Callable[[Line], float | None]:
    """The route's figure over the accurate model's, under one load."""

    def of(line: Line) -> float | None:
        loads = line["cascade"].get(str(load))
        return None if loads is None else float(loads["route"][figure] / loads[ACCURATE][figure])

    return of


def points_lost(line: Line) -> float | None:
    """The accurate model's accuracy on the test images less the route's, in points; measured in the first round."""
    accuracy = line.get("accuracy")
    return None if accuracy is None else 100 * float(accuracy[ACCURATE] - accuracy["route"])


def unexplained(line: Line) -> float | None:
    """The primary's p99 with the shadow over that of a server that is as busy without one."""
    shadow = line["shadow"]
    return float(shadow["shadowed"]["p99_ms"] / shadow["busier"]["p99_ms"])


GOALS = (
    Goal(f"cascade, test accuracy below `{ACCURATE}`'s, points", 0.1, points_lost),
    Goal(f"cascade, 64 in flight, calls/s over `{ACCURATE}`'s", 2.5, ratio(64, "calls_per_s"), more_is_better=True),
    Goal(f"cascade, 1 in flight, p50 over `{ACCURATE}`'s", 0.7, ratio(1, "p50_ms")),
    # 99.9 % of all samples of a binomial distribution are within 3.29 standard deviations of its mean.
    Goal(
        "split, 100,000 calls, standard deviations from the shares",
        3.29,
        lambda line: line["split"]["deviations"] if "split" in line else None,
    ),
    Goal("shadow of 100 %, p99 over that of a server as busy without one", 1.1, unexplained),
)
