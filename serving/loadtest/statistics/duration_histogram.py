"""Counts durations in an HdrHistogram: bounded memory for any number of queries, and merging without loss."""

from collections.abc import Iterable
from functools import cache
from typing import Self

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from hangtag.serving.loadtest.statistics.percentiles import Counts, Values, percentile

# From 1 µs to one hour, to three significant digits.
_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3


class DurationHistogram:
    """Durations in seconds, counted to three significant digits and to 1 µs at best.

    Example:
        histogram = DurationHistogram()
        histogram.record(np.array([0.0012, 0.0014]))
        histogram.percentile(99)
    """

    def __init__(self, encoded: bytes | None = None) -> None:
        """Create an empty histogram, or decode one that `encode` wrote."""
        self._hdr = (
            HdrHistogram.decode(encoded) if encoded is not None else HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        )

    @classmethod
    def merged(cls, histograms: Iterable["DurationHistogram"]) -> Self:
        """One histogram of all the histograms' durations."""
        total = cls()
        for histogram in histograms:
            total._hdr.add(histogram._hdr)
        return total

    @staticmethod
    @cache
    def values() -> Values:
        """The largest duration in seconds of each bucket of `counts`, ascending: [buckets]."""
        hdr = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        lowest = (hdr.get_value_from_index(bucket) for bucket in range(hdr.counts_len))
        return np.array([hdr.get_highest_equivalent_value(value) / 1e6 for value in lowest])

    @staticmethod
    def prepare() -> None:
        """Compute the bucket tables that all histograms share, which takes a moment, before anything is timed."""
        DurationHistogram._bounds()

    @staticmethod
    @cache
    def _bounds() -> npt.NDArray[np.int64]:
        """The largest duration in microseconds of each bucket: [buckets]."""
        return np.rint(DurationHistogram.values() * 1e6).astype(np.int64)

    def record(self, durations: npt.NDArray[np.float64]) -> None:
        """Count durations [queries] in seconds."""
        if not durations.size:
            return
        rounded = np.sort(np.clip(np.rint(durations * 1e6), _LOWEST_US, _HIGHEST_US).astype(np.int64))
        # record_value maintains HdrHistogram's minimum and maximum. One call per duration would hold the interpreter
        # lock, and so delay the sending threads, many times longer than adding to the buckets with numpy.
        for value in {int(rounded[0]), int(rounded[-1])}:
            self._hdr.record_value(value)
        others = rounded[1:-1] if rounded[0] != rounded[-1] else rounded[1:]
        buckets = np.searchsorted(self._bounds(), others)
        np.add.at(np.ctypeslib.as_array(self._hdr.counts), buckets, 1)
        self._hdr.total_count += others.size

    def counts(self) -> Counts:
        """The number of durations in each bucket: [buckets]; `values` gives the buckets' durations."""
        return np.ctypeslib.as_array(self._hdr.counts).astype(np.int64)

    def percentile(self, q: float) -> float:
        """The duration in seconds that q % do not exceed; NaN when empty. Raises ValueError when q is out of range."""
        return percentile(self.values(), self.counts(), q)

    @property
    def maximum(self) -> float:
        """The longest duration in seconds; NaN when empty."""
        return self.percentile(100)

    @property
    def mean(self) -> float:
        """The mean duration in seconds; NaN when empty."""
        counts = self.counts()
        return float(self.values() @ counts / counts.sum()) if len(self) else float("nan")

    def encode(self) -> bytes:
        """HdrHistogram's V2 encoding in base64; its unit is 1 µs."""
        encoded: bytes = self._hdr.encode()
        return encoded

    def __len__(self) -> int:
        return int(self._hdr.get_total_count())

    def __reduce__(self) -> tuple[type["DurationHistogram"], tuple[bytes]]:
        return DurationHistogram, (self.encode(),)
