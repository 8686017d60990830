"""The server's goals as data, and their figures in a measurement: each a ratio within a round, or a bound."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Measurement = Mapping[str, Any]
"""The lines of a results file: its conditions, and the list of rounds."""
Round = Mapping[str, Any]

UNITS = {
    "samples_per_s": "images/s",
    "p50_ms": "p50, ms",
    "share": "share of bare",
    "in_time_share": "in time, share of capacity",
    "gained_mb": "memory gained, MB",
    "kept_mb": "memory kept, MB",
    "pss_mb": "PSS, MB",
    "seconds_to_ready": "ready in, s",
}
"""Figure -> its name and unit for a reader."""


@dataclass(frozen=True)
class Goal:
    """A bound for one figure of one system.

    Args:
        model: The model; None for the load `start`, which has every model.
        load: See scenarios.LOADS.
        figure: See UNITS.
        bound: Of the ratio to `reference`, or of the figure itself.
        reference: The system whose figure in the same round is divided by; for `bare` always that of batches.
        system: The system that the goal is for.
        moonshot: Whether it is a hope rather than a promise.
    """

    model: str | None
    load: str
    figure: str
    bound: float
    reference: str | None = None
    system: str = "native"
    moonshot: bool = False

    @property
    def more_is_better(self) -> bool:
        return self.figure in ("samples_per_s", "share", "in_time_share")

    def values(self, measured: Measurement) -> list[float]:
        """A value for each round that has what it takes."""
        values = []
        for turn in measured["rounds"]:
            value = self.of(self.system, turn)
            divisor = 1.0 if self.reference is None else self._divisor(turn)
            if value is not None and divisor:
                values.append(value / divisor)
        return values

    def of(self, system: str, turn: Round) -> float | None:
        """A system's figure in one round; None where it was not measured."""
        return figure(turn, system, self.model, self.load, self.figure)

    def reached(self, values: list[float]) -> bool:
        """Whether the median of the rounds is within the bound."""
        median = statistics.median(values)
        return median >= self.bound if self.more_is_better else median <= self.bound

    def _divisor(self, turn: Round) -> float | None:
        return bare_rate(turn, self.model) if self.reference == "bare" else self.of(str(self.reference), turn)


def figure(turn: Round, system: str, model: str | None, load: str, name: str) -> float | None:
    """A figure of one round; None where it was not measured."""
    loads = turn.get(system, {})
    value = (loads if model is None else loads.get(model, {})).get(load, {}).get(name)
    return None if value is None else float(value)


def bare_rate(turn: Round, model: str | None) -> float | None:
    """Samples a second of bare ONNX Runtime in batches; None where it was not measured."""
    return figure(turn, "bare", model, "batch", "samples_per_s")


RATE = "samples_per_s"
GOALS = (
    *(Goal("lstm", load, RATE, bound, "hot") for load, bound in (("4", 1.8), ("16", 1.5), ("64", 1.25))),
    *(Goal("lstm", load, RATE, bound, "triton") for load, bound in (("16", 1.4), ("64", 1.25))),
    *(Goal("cnn", load, RATE, bound, "hot") for load, bound in (("4", 1.0), ("16", 1.25), ("64", 1.1))),
    *(Goal("cnn", load, RATE, bound, "triton") for load, bound in (("16", 1.15), ("64", 1.12))),
    *(
        Goal(model, "1", "p50_ms", bound, reference)
        for model in ("lstm", "cnn")
        for reference, bound in (("hot", 1.0), ("triton", 0.62))
    ),
    Goal("cnn", "batch", RATE, 0.95, "bare"),
    Goal("lstm", "batch", RATE, 0.90, "bare"),
    Goal("cnn", "overload", "in_time_share", 0.90),
    Goal("cnn", "overload", "gained_mb", 50),
    Goal("cnn", "overload", "kept_mb", 10),
    Goal("cnn", "poisson", "share", 0.6),
    Goal(None, "start", "pss_mb", 150),
    Goal(None, "start", "seconds_to_ready", 1),
    Goal("lstm", "64", RATE, 1.8, "ordinary", system="grpc"),
    Goal("lstm", "64", RATE, 0.6, "bare", moonshot=True),
)
