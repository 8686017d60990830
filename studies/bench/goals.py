"""Goals, and functions that read the figures of rounds. A goal limits a figure, or the ratio of two figures from the
same round."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Round = Mapping[str, Any]
"""A line of a results file: system -> model -> load -> figures, or system -> load -> figures without a model."""

UNITS = {
    "samples_per_s": "images/s",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "share": "share of bare",
    "in_time_share": "answered in time, as a share of capacity",
    "gained_mb": "memory gained, MB",
    "kept_mb": "memory kept, MB",
    "pss_mb": "PSS, MB",
    "seconds_to_ready": "ready in, s",
    "points_below": "accuracy loss against the FP32 file, percentage points",
    "deviations": "deviation from the configured shares, in standard deviations",
}
"""Figure -> its name and unit for a reader."""


@dataclass(frozen=True)
class Goal:
    """A limit for one figure of one system.

    Args:
        model: The model; None if the figure belongs to all models, such as the time to start the server.
        load: The load's name.
        figure: The figure's key in UNITS.
        bound: The limit for the figure or, if there is a `reference`, for the ratio of the figures.
        reference: The system to which `system` is compared in each round. If this is `bare`, its load `batch` is used.
        system: The system that should reach the goal.
    """

    model: str | None
    load: str
    figure: str
    bound: float
    reference: str | None = None
    system: str = "native"

    @property
    def more_is_better(self) -> bool:
        return self.figure in ("samples_per_s", "share", "in_time_share")

    def values(self, rounds: Sequence[Round]) -> list[float]:
        """Return the goal's value in each round that has the necessary figures."""
        values = []
        for turn in rounds:
            value, divisor = figure(turn, self.system, self.model, self.load, self.figure), 1.0
            if self.reference is not None:
                load = "batch" if self.reference == "bare" else self.load
                divisor = figure(turn, self.reference, self.model, load, self.figure) or 0.0
            if value is not None and divisor:
                values.append(value / divisor)
        return values

    def reached(self, values: Sequence[float]) -> bool:
        """Return whether the median of the rounds is within the bound."""
        median = statistics.median(values)
        return median >= self.bound if self.more_is_better else median <= self.bound


def figure(turn: Round, system: str, model: str | None, load: str, name: str) -> float | None:
    """Return a figure of a round; None if the round did not measure it."""
    loads = turn.get(system, {})
    value = (loads if model is None else loads.get(model, {})).get(load, {}).get(name)
    return None if value is None else float(value)


def figures(rounds: Sequence[Round], system: str, model: str | None, load: str, name: str) -> list[float]:
    """Return the values of one metric, one from each round in which it was measured."""
    every = (figure(turn, system, model, load, name) for turn in rounds)
    return [value for value in every if value is not None]
