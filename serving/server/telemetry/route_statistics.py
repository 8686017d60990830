"""Counts what each member of a route has answered, and how a shadow's answers compare."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

StageKey = tuple[int, str]
"""The stage, from 1, and its member, NAME or NAME@VERSION."""


class StageCounts(NamedTuple):
    """Requests, and their samples, that a member answered in a stage."""

    requests: int = 0
    samples: int = 0

    def plus(self, other: "StageCounts") -> "StageCounts":
        """The sum of both."""
        return StageCounts(self.requests + other.requests, self.samples + other.samples)


class ShadowCounts(NamedTuple):
    """Copies of requests that went to a route's shadow, and what a comparison with the callers' answers showed."""

    compared: int = 0
    skipped: int = 0
    failed: int = 0
    samples: int = 0
    """Of the requests that were compared."""
    agreed: int = 0
    """Those of them whose most probable labels are the same."""
    largest_difference: float = 0.0
    """Of any value of an output."""

    def plus(self, other: "ShadowCounts") -> "ShadowCounts":
        """Both together."""
        return ShadowCounts(
            self.compared + other.compared,
            self.skipped + other.skipped,
            self.failed + other.failed,
            self.samples + other.samples,
            self.agreed + other.agreed,
            max(self.largest_difference, other.largest_difference),
        )


@dataclass(frozen=True)
class RouteCounts:
    """The counters of a route at one moment; of a model's version, which has none, they are empty."""

    stages: Mapping[StageKey, StageCounts] = field(default_factory=dict)
    shadow: ShadowCounts | None = None
    """None where the route has no shadow."""

    def plus(self, other: "RouteCounts") -> "RouteCounts":
        """The counters of one route in two processes, together."""
        keys, none = {**self.stages, **other.stages}, StageCounts()
        stages = {key: self.stages.get(key, none).plus(other.stages.get(key, none)) for key in keys}
        if self.shadow is None or other.shadow is None:
            return RouteCounts(stages, self.shadow or other.shadow)
        return RouteCounts(stages, self.shadow.plus(other.shadow))


class RouteStatistics:
    """Counters of one route. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[StageKey, StageCounts] = {}
        self.has_shadow = False
        self._shadow = ShadowCounts()

    def record(self, stage: int, member: str, samples: int) -> None:
        """Count what a member answered of one request."""
        key = (stage, member)
        with self._lock:
            self._counts[key] = self._counts.get(key, StageCounts()).plus(StageCounts(1, samples))

    def shadow_compared(self, samples: int, agreed: int, largest_difference: float) -> None:
        """Count a request whose copy was answered."""
        with self._lock:
            self._shadow = self._shadow.plus(
                ShadowCounts(1, samples=samples, agreed=agreed, largest_difference=largest_difference)
            )

    def shadow_skipped(self) -> None:
        """Count a copy that was not submitted, or refused, because the server had other work."""
        with self._lock:
            self._shadow = self._shadow.plus(ShadowCounts(skipped=1))

    def shadow_failed(self) -> None:
        """Count a copy that got no answer for another reason."""
        with self._lock:
            self._shadow = self._shadow.plus(ShadowCounts(failed=1))

    def snapshot(self) -> RouteCounts:
        """The counters as they are now."""
        with self._lock:
            return RouteCounts(dict(self._counts), self._shadow if self.has_shadow else None)
