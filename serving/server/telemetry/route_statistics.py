"""Counts what each member of a route has answered."""

import threading
from collections.abc import Mapping
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


class RouteStatistics:
    """Counters of one route. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[StageKey, StageCounts] = {}

    def record(self, stage: int, member: str, samples: int) -> None:
        """Count what a member answered of one request."""
        key = (stage, member)
        with self._lock:
            self._counts[key] = self._counts.get(key, StageCounts()).plus(StageCounts(1, samples))

    def snapshot(self) -> Mapping[StageKey, StageCounts]:
        """The counters as they are now."""
        with self._lock:
            return dict(self._counts)


def added(one: Mapping[StageKey, StageCounts], other: Mapping[StageKey, StageCounts]) -> dict[StageKey, StageCounts]:
    """The counters of one route in two processes, together."""
    none = StageCounts()
    return {key: one.get(key, none).plus(other.get(key, none)) for key in {**one, **other}}
