"""Judges a measurement by the server's goals, each of them a ratio within a round or a bound."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Measurement = Mapping[str, Any]
"""The lines of a results file: its conditions, and the lists starts and rounds."""


@dataclass(frozen=True)
class Goal:
    """A figure, one value a round, and the bound that its median should reach."""

    name: str
    unit: str
    bound: float
    more_is_better: bool
    figures: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.figures)

    @property
    def reached(self) -> bool:
        return self.median >= self.bound if self.more_is_better else self.median <= self.bound

    @property
    def text(self) -> str:
        return f"{'≥' if self.more_is_better else '≤'} {self.bound:g}{self.unit and ' ' + self.unit}"


def bare_rate(bare: Mapping[str, Mapping[str, float]]) -> float:
    """Samples a second of bare ONNX Runtime, by the better of its two ways to use all threads."""
    return max(bare["all_threads"]["samples_per_s"], bare["callers"]["samples_per_s"])


def goals(measured: Measurement, path: str = "hot") -> list[Goal]:
    """All goals of one path, with their figures over the rounds."""
    rounds = measured["rounds"]
    starts = [start[path] for start in measured["starts"]]

    def each(model: str, scenario: str, figure: str) -> list[float]:
        return [turn[path][model][scenario][figure] for turn in rounds]

    def shares(model: str, scenario: str) -> tuple[float, ...]:
        rates = each(model, scenario, "samples_per_s")
        return tuple(rate / bare_rate(turn["bare"][model]) for rate, turn in zip(rates, rounds, strict=True))

    def high(name: str, bound: float, figures: Iterable[float]) -> Goal:
        return Goal(name, "", bound, True, tuple(figures))

    def low(name: str, unit: str, bound: float, figures: Iterable[float]) -> Goal:
        return Goal(name, unit, bound, False, tuple(figures))

    return [
        high("lstm, 64 in flight, share of bare", 0.52, shares("lstm", "many")),
        high("cnn, 64 in flight, share of bare", 0.92, shares("cnn", "many")),
        low("lstm, 1 in flight, p50", "ms", 0.28, each("lstm", "one", "p50_ms")),
        low("cnn, 1 in flight, p50", "ms", 0.65, each("cnn", "one", "p50_ms")),
        high("cnn, calls of 64 samples, share of bare", 0.95, shares("cnn", "offline")),
        high("lstm, calls of 64 samples, share of bare", 0.90, shares("lstm", "offline")),
        high("cnn, Poisson with p99 ≤ 15 ms, share of bare", 0.85, each("cnn", "poisson", "share")),
        high("cnn, 10 x overload, in time, share of capacity", 0.85, each("cnn", "overload", "in_time_share")),
        low("cnn, memory gained in overload", "MB", 10, each("cnn", "overload", "memory_growth_mb")),
        low("cnn, recovered after overload in", "s", 0.5, each("cnn", "overload", "recovery_s")),
        low("memory with every model, PSS", "MB", 150, [start["pss_mb"] for start in starts]),
        low("ready in", "s", 1, [start["seconds_to_ready"] for start in starts]),
    ]
