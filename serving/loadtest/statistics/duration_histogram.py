"""Counts durations in an HdrHistogram, which has bounded memory for any number of queries, and merges without loss."""

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from pydantic import PlainSerializer, PlainValidator
from typing_extensions import TypedDict

Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
# Durations from 1 µs to one hour are counted with three significant digits.
_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3


_FIGURES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9, "max": 100.0}


class Durations(TypedDict):
    """The document of a histogram, in seconds. Its field `histogram` contains the whole distribution."""

    count: int
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p999: float | None
    max: float | None
    histogram: str


class DurationHistogram:
    """A histogram of durations in seconds, with three significant digits and a resolution of 1 µs.

    Example:
        histogram = DurationHistogram()
        histogram.record(np.array([0.0012, 0.0014]))
        histogram.percentile(99)
    """

    def __init__(self, encoded: bytes | None = None) -> None:
        """Create an empty histogram, or decode the output of `encode`."""
        self._hdr = (
            HdrHistogram.decode(encoded) if encoded is not None else HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        )

    @classmethod
    def merged(cls, histograms: Iterable["DurationHistogram"]) -> Self:
        """Merge histograms into one histogram."""
        total = cls()
        for histogram in histograms:
            total._hdr.add(histogram._hdr)
        return total

    @staticmethod
    @cache
    def values() -> Values:
        """Return the largest duration in seconds of each bucket of `counts`, ascending: [buckets]."""
        hdr = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        lowest = (hdr.get_value_from_index(bucket) for bucket in range(hdr.counts_len))
        return np.array([hdr.get_highest_equivalent_value(value) / 1e6 for value in lowest])

    @staticmethod
    def prepare() -> None:
        """Compute the bucket tables that all histograms share. This is slow, so call this method before measuring."""
        DurationHistogram._bounds()

    @staticmethod
    @cache
    def _bounds() -> npt.NDArray[np.int64]:
        """Return the largest duration in microseconds of each bucket: [buckets]."""
        return np.rint(DurationHistogram.values() * 1e6).astype(np.int64)

    def record(self, durations: npt.NDArray[np.float64]) -> None:
        """Count durations [queries] in seconds."""
        if not durations.size:
            return
        rounded = np.sort(np.clip(np.rint(durations * 1e6), _LOWEST_US, _HIGHEST_US).astype(np.int64))
        # record_value updates HdrHistogram's minimum and maximum. A call for each duration would hold the interpreter
        # lock many times longer than adding to the buckets with numpy, and would so delay the sending threads.
        for value in {int(rounded[0]), int(rounded[-1])}:
            self._hdr.record_value(value)
        others = rounded[1:-1] if rounded[0] != rounded[-1] else rounded[1:]
        buckets = np.searchsorted(self._bounds(), others)
        np.add.at(np.ctypeslib.as_array(self._hdr.counts), buckets, 1)
        self._hdr.total_count += others.size

    def counts(self) -> Counts:
        """Return the number of durations in each bucket: [buckets]. `values` returns the buckets' durations."""
        return np.ctypeslib.as_array(self._hdr.counts).astype(np.int64)

    def percentile(self, q: float) -> float:
        """Return the shortest duration in seconds that at least q % of the durations do not exceed (nearest rank).

        The result is NaN if the histogram is empty.

        Raises:
            ValueError: q is not between 0 and 100.
        """
        if not 0 <= q <= 100:
            raise ValueError(f"a percentile must be between 0 and 100, but is {q}")
        if not len(self):
            return math.nan
        # The product is rounded because of float errors: 99.9 % of 1,000 is 999, not 999.0000000000001.
        rank = max(math.ceil(round(len(self) * (q / 100), 6)), 1)
        return float(self.values()[np.searchsorted(np.cumsum(self.counts()), rank)])

    @property
    def maximum(self) -> float:
        """The longest duration in seconds; NaN if the histogram is empty."""
        return self.percentile(100)

    @property
    def mean(self) -> float:
        """The mean duration in seconds; NaN if the histogram is empty."""
        counts = self.counts()
        return float(self.values() @ counts / counts.sum()) if len(self) else math.nan

    def known(self, q: float) -> float | None:
        """Return the q-th percentile in seconds; None if the histogram is empty."""
        return self.percentile(q) if len(self) else None

    def document(self) -> dict[str, Any]:
        """Return the histogram as JSON."""
        figures = {name: self.known(q) for name, q in _FIGURES.items()}
        return {"count": len(self), **figures, "histogram": self.encode().decode()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read the output of `document`."""
        return cls(document["histogram"].encode())

    def encode(self) -> bytes:
        """Return HdrHistogram's V2 encoding in base64. The unit is 1 µs."""
        encoded: bytes = self._hdr.encode()
        return encoded

    def __len__(self) -> int:
        return int(self._hdr.get_total_count())

    def __reduce__(self) -> tuple[type["DurationHistogram"], tuple[bytes]]:
        return DurationHistogram, (self.encode(),)


# A dataclass' field of this type holds a histogram. The dataclass' JSON document holds the histogram's JSON document.
StoredHistogram = Annotated[
    DurationHistogram,
    PlainValidator(DurationHistogram.from_document),
    PlainSerializer(DurationHistogram.document, return_type=Durations),
]
