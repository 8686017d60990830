"""Counts what each member of a route has answered, and how a shadow's answers compare."""

import threading
from collections.abc import Iterable, Mapping
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
    unsure: int | None = None
    """Samples with the answer of a member that was not sure, since the next one had no time or no place for them; None
    where the route is no cascade."""
    expected_sent_on: float | None = None
    """The share of the samples that go on to the second member by the route's file; None where it states none."""

    def plus(self, other: "RouteCounts") -> "RouteCounts":
        """The counters of one route in two processes, together."""
        keys, none = {**self.stages, **other.stages}, StageCounts()
        stages = {key: self.stages.get(key, none).plus(other.stages.get(key, none)) for key in keys}
        shadow = self.shadow or other.shadow
        if self.shadow is not None and other.shadow is not None:
            shadow = self.shadow.plus(other.shadow)
        unsure = None if self.unsure is None and other.unsure is None else (self.unsure or 0) + (other.unsure or 0)
        expected = other.expected_sent_on if self.expected_sent_on is None else self.expected_sent_on
        return RouteCounts(stages, shadow, unsure, expected)


class RouteStatistics:
    """Counters of one route. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[StageKey, list[int]] = {}  # requests and samples
        self._expected_sent_on: float | None = None
        self._has_shadow = False
        self._shadow = ShadowCounts()
        self._unsure: int | None = None

    def begin_cascade(self, stages: Iterable[StageKey], expected_sent_on: float | None) -> None:
        """Count a cascade from 0: an alert sees an increase only in a series that has begun before it.

        Args:
            stages: Those of the route.
            expected_sent_on: See `RouteCounts`.
        """
        self.begin_split(stages)
        with self._lock:
            self._unsure = self._unsure or 0
            self._expected_sent_on = expected_sent_on

    def begin_split(self, members: Iterable[StageKey]) -> None:
        """Count a split from 0, and what was counted of these members before goes on."""
        with self._lock:
            for key in members:
                self._counts.setdefault(key, [0, 0])
            self._expected_sent_on = None

    def begin_shadow(self) -> None:
        """Count copies from 0."""
        with self._lock:
            self._has_shadow = True

    def record(self, key: StageKey, samples: int) -> None:
        """Count what a member answered of one request. key: one that has begun."""
        counts = self._counts[key]
        with self._lock:
            counts[0] += 1
            counts[1] += samples

    def record_unsure(self, samples: int) -> None:
        """Count samples of one request to a cascade whose answer is that of a member that was not sure."""
        with self._lock:
            self._unsure = (self._unsure or 0) + samples

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
            stages = {key: StageCounts(*counts) for key, counts in self._counts.items()}
            shadow = self._shadow if self._has_shadow else None
            return RouteCounts(stages, shadow, self._unsure, self._expected_sent_on)
