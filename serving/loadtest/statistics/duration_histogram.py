"""Counts durations in the buckets of an HdrHistogram, which has bounded memory for any number of queries."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from pydantic import PlainSerializer, PlainValidator
from typing_extensions import TypedDict

from hangtag.serving.loadtest.record import NullForNan

Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def _empty() -> Any:
    """Return an empty hdrh histogram for durations from 1 µs to one hour, with three significant digits."""
    return HdrHistogram(1, 3_600_000_000, 3)


def _bounds() -> Counts:
    """Return each bucket's largest duration in microseconds: [buckets].

    Of the HdrHistogram's buckets, the first 2,048 are 1 µs wide. Each following 1,024 buckets are twice as wide as
    those before.
    """
    buckets = np.arange(_empty().counts_len)
    power = np.maximum(buckets // 1024 - 1, 0)
    bounds: Counts = ((buckets - 1024 * power + 1) << power) - 1
    return bounds


_BOUNDS = _bounds()
_FIGURES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9, "max": 100.0}


class Durations(TypedDict):
    """The document of a histogram, in seconds. The field `histogram` contains the whole distribution."""

    count: int
    p50: NullForNan
    p90: NullForNan
    p95: NullForNan
    p99: NullForNan
    p999: NullForNan
    max: NullForNan
    histogram: str


class DurationHistogram:
    """A histogram of durations in seconds, with three significant digits and a resolution of 1 µs.

    Attributes:
        counts: The number of durations in each bucket: [buckets].
        values: The largest duration in each bucket in seconds, in ascending order: [buckets].
    """

    values: ClassVar[Values] = _BOUNDS / 1e6

    def __init__(self) -> None:
        self.counts = np.zeros(len(_BOUNDS), np.int64)

    @classmethod
    def decoded(cls, encoded: bytes) -> Self:
        """Read the output of `encode`."""
        histogram = cls()
        histogram.counts[:] = np.ctypeslib.as_array(HdrHistogram.decode(encoded).counts)
        return histogram

    @classmethod
    def merged(cls, histograms: Iterable["DurationHistogram"]) -> Self:
        """Merge histograms into one histogram, without loss."""
        total = cls()
        for histogram in histograms:
            total.counts += histogram.counts
        return total

    def record(self, durations: npt.NDArray[np.float64]) -> None:
        """Add durations [queries] in seconds. A duration out of range is replaced with the nearest duration in
        range."""
        # Calls of hdrh's record_value would hold the interpreter lock many times longer, and so delay the sending
        # threads. Searching for sorted durations is faster.
        rounded = np.sort(np.clip(np.rint(durations * 1e6), 1, 3_600_000_000).astype(np.int64))
        np.add.at(self.counts, np.searchsorted(_BOUNDS, rounded), 1)

    def percentile(self, q: float) -> float:
        """Return the shortest duration in seconds that at least q % of the durations do not exceed (nearest rank).

        The result is NaN if the histogram is empty.
        """
        below = np.cumsum(self.counts)
        if not below[-1]:
            return math.nan
        # The product is rounded because of float errors: 99.9 % of 1,000 is 999, not 999.0000000000001.
        rank = max(math.ceil(round(int(below[-1]) * (q / 100), 6)), 1)
        return float(self.values[np.searchsorted(below, rank)])

    @property
    def maximum(self) -> float:
        """The longest duration in seconds; NaN if the histogram is empty."""
        return self.percentile(100)

    @property
    def mean(self) -> float:
        """The mean duration in seconds; NaN if the histogram is empty."""
        return float(self.values @ self.counts) / len(self) if self else math.nan

    def document(self) -> dict[str, Any]:
        """Return the histogram as JSON."""
        figures = {name: self.percentile(q) for name, q in _FIGURES.items()}
        return {"count": len(self), **figures, "histogram": self.encode().decode()}

    def encode(self) -> bytes:
        """Return HdrHistogram's V2 encoding in base64. The unit is 1 µs."""
        hdr = _empty()
        if self:
            hdr.record_value(int(_BOUNDS[np.flatnonzero(self.counts)[-1]]))  # hdrh encodes the counts up to this value
        np.ctypeslib.as_array(hdr.counts)[:] = self.counts
        encoded: bytes = hdr.encode()
        return encoded

    def __len__(self) -> int:
        return int(self.counts.sum())

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return DurationHistogram.decoded, (self.encode(),)


# The type of a dataclass' field that holds a histogram. The field is stored as the histogram's JSON document.
StoredHistogram = Annotated[
    DurationHistogram,
    PlainValidator(lambda document: DurationHistogram.decoded(document["histogram"].encode())),
    PlainSerializer(DurationHistogram.document, return_type=Durations),
]
