"""Durations in HdrHistograms: bounded memory whatever the count, and merging without loss."""

from collections.abc import Iterable
from functools import cache
from typing import Self

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from hangtag.serving.loadtest.statistics.percentiles import Counts, Values, percentile

# From 1 µs to an hour, to three significant digits.
_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3


class DurationHistogram:
    """Durations, given and answered in seconds, kept to three significant digits and never finer than 1 µs."""

    def __init__(self, encoded: bytes | None = None) -> None:
        """An empty histogram, or one that `encode` wrote."""
        self._hdr = (
            HdrHistogram.decode(encoded) if encoded is not None else HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        )

    @classmethod
    def merged(cls, parts: Iterable["DurationHistogram"]) -> Self:
        """One histogram of all the parts' durations."""
        whole = cls()
        for part in parts:
            whole._hdr.add(part._hdr)
        return whole

    @staticmethod
    @cache
    def values() -> Values:
        """The duration in seconds that each place of `counts` stands for, ascending."""
        hdr = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        places = (hdr.get_value_from_index(place) for place in range(hdr.counts_len))
        return np.array([hdr.get_highest_equivalent_value(value) / 1e6 for value in places])

    @staticmethod
    def prepare() -> None:
        """Make the tables that all histograms of this process share, before anything is timed: it takes a moment."""
        DurationHistogram._bounds()

    @staticmethod
    @cache
    def _bounds() -> npt.NDArray[np.int64]:
        """The largest duration (microseconds) at each place."""
        return np.rint(DurationHistogram.values() * 1e6).astype(np.int64)

    def record(self, durations: npt.NDArray[np.float64]) -> None:
        """Count these durations (seconds)."""
        if not durations.size:
            return
        rounded = np.sort(np.clip(np.rint(durations * 1e6), _LOWEST_US, _HIGHEST_US).astype(np.int64))
        # The smallest and the largest go the package's own way, which keeps its bounds; the others straight to their
        # places: a call for each would hold up the threads that send for many times as long.
        for value in {int(rounded[0]), int(rounded[-1])}:
            self._hdr.record_value(value)
        others = rounded[1:-1] if rounded[0] != rounded[-1] else rounded[1:]
        places = np.searchsorted(self._bounds(), others)
        np.add.at(np.ctypeslib.as_array(self._hdr.counts), places, 1)
        self._hdr.total_count += others.size

    def counts(self) -> Counts:
        """How many durations lie at each place of `values`."""
        return np.ctypeslib.as_array(self._hdr.counts).astype(np.int64)

    def percentile(self, q: float) -> float:
        """The duration in seconds that q % do not exceed; NaN when nothing was counted."""
        return percentile(self.values(), self.counts(), q)

    @property
    def maximum(self) -> float:
        """The longest duration in seconds; NaN when nothing was counted."""
        return self.percentile(100)

    @property
    def mean(self) -> float:
        """The mean duration in seconds; NaN when nothing was counted."""
        counts = self.counts()
        return float(self.values() @ counts / counts.sum()) if len(self) else float("nan")

    def encode(self) -> bytes:
        """HdrHistogram's own V2 format, base64; unit 1 µs."""
        encoded: bytes = self._hdr.encode()
        return encoded

    def __len__(self) -> int:
        return int(self._hdr.get_total_count())

    def __reduce__(self) -> tuple[type["DurationHistogram"], tuple[bytes]]:
        return DurationHistogram, (self.encode(),)
