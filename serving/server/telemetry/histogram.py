"""Prometheus histograms with fixed bucket bounds, so that they add up over processes, machines and time."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SECONDS_BOUNDS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCH_SIZE_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


@dataclass(frozen=True)
class BucketHistogram:
    """The counts of a histogram at one moment.

    Attributes:
        bounds: Upper bounds of the buckets, which include them; ascending.
        counts: Number of values in each bucket (not cumulative), and last the number above the highest bound.
        sum: Sum of all values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> "BucketHistogram":
        """A histogram without values."""
        return cls(bounds, (0,) * (len(bounds) + 1), 0.0)

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)

    def __add__(self, other: "BucketHistogram") -> "BucketHistogram":
        counts = tuple(own + others for own, others in zip(self.counts, other.counts, strict=True))
        return BucketHistogram(self.bounds, counts, self.sum + other.sum)


class HistogramRecorder:
    """Counts values into buckets. Not thread-safe: its owner holds a lock."""

    __slots__ = ("_bounds", "_bounds_array", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._bounds_array = np.array(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Add one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_all(self, values: npt.NDArray[Any]) -> None:
        """Add many values at once, which is much faster than one by one."""
        for bucket, times in enumerate(np.bincount(np.searchsorted(self._bounds_array, values))):
            self._counts[bucket] += int(times)
        self._sum += float(values.sum())

    def histogram(self) -> BucketHistogram:
        return BucketHistogram(self._bounds, tuple(self._counts), self._sum)
