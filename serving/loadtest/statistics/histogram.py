"""Durations in HdrHistograms: bounded memory whatever the count, and merging without loss."""

from collections.abc import Iterable
from functools import cache
from typing import Self

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from serving.loadtest.statistics.percentiles import Counts, Values, percentile

# From 1 µs to an hour, to three significant digits.
_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3


class Histogram:
    """Durations, given and answered in seconds, kept to three significant digits and never finer than 1 µs."""

    def __init__(self, encoded: bytes | None = None) -> None:
        """An empty histogram, or one that `encode` wrote."""
        self._hdr = (
            HdrHistogram.decode(encoded) if encoded is not None else HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        )

    @classmethod
    def merged(cls, parts: Iterable["Histogram"]) -> Self:
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

    def record(self, durations: npt.NDArray[np.float64]) -> None:
        """Count these durations (seconds)."""
        rounded = np.clip(np.rint(durations * 1e6), _LOWEST_US, _HIGHEST_US).astype(np.int64)
        for value, count in zip(*(part.tolist() for part in np.unique(rounded, return_counts=True)), strict=True):
            self._hdr.record_value(value, count)

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

    def __reduce__(self) -> tuple[type["Histogram"], tuple[bytes]]:
        return Histogram, (self.encode(),)
