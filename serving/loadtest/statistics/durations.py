"""Counts durations in the buckets of an HdrHistogram, and adds up the times that a server reports."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from pydantic import PlainSerializer, PlainValidator
from typing_extensions import TypedDict

from hangtag.serving.loadtest.record import NullForNan

Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


# The histograms of hdrh have durations from 1 µs to one hour, with three significant digits.
_RANGE = (1, 3_600_000_000, 3)
_BUCKETS = np.arange(HdrHistogram(*_RANGE).counts_len)
# The first 2,048 buckets of the HdrHistogram are 1 µs wide, the next 1,024 are 2 µs wide, the next 1,024 are 4 µs wide,
# and so on.
_POWERS = np.maximum(_BUCKETS // 1024 - 1, 0)
_BOUNDS: Counts = ((_BUCKETS - 1024 * _POWERS + 1) << _POWERS) - 1  # Each bucket's largest duration in microseconds.
_FIGURES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9, "max": 100.0}


class Durations(TypedDict):
    """A histogram as a JSON document, in seconds. The field `histogram` contains the whole distribution."""

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
        histogram = cls()
        histogram.counts[:] = np.ctypeslib.as_array(HdrHistogram.decode(encoded).counts)
        return histogram

    @classmethod
    def merged(cls, histograms: Iterable["DurationHistogram"]) -> Self:
        total = cls()
        for histogram in histograms:
            total.counts += histogram.counts
        return total

    def record(self, durations: npt.NDArray[np.float64]) -> None:
        """Add durations [queries] in seconds. A duration out of range is replaced with the nearest duration in
        range."""
        # A loop over hdrh's record_value would hold the interpreter lock many times longer than this code, and delay
        # the sending threads. The durations are sorted, because np.searchsorted is then faster.
        rounded = np.sort(np.clip(np.rint(durations * 1e6), *_RANGE[:2]).astype(np.int64))
        np.add.at(self.counts, np.searchsorted(_BOUNDS, rounded), 1)

    def percentile(self, q: float) -> float:
        """Return the shortest duration in seconds that at least q % of the durations do not exceed (nearest rank); NaN
        if the histogram is empty."""
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
        figures = {name: self.percentile(q) for name, q in _FIGURES.items()}
        return {"count": len(self), **figures, "histogram": self.encode().decode()}

    def encode(self) -> bytes:
        """Return HdrHistogram's V2 encoding in base64. The unit is 1 µs."""
        hdr = HdrHistogram(*_RANGE)
        if self:
            hdr.record_value(int(_BOUNDS[np.flatnonzero(self.counts)[-1]]))  # hdrh encodes the counts up to this value
        np.ctypeslib.as_array(hdr.counts)[:] = self.counts
        encoded: bytes = hdr.encode()
        return encoded

    def __len__(self) -> int:
        return int(self.counts.sum())


# The type of a dataclass field that holds a histogram. The field is stored as the histogram's JSON document.
StoredHistogram = Annotated[
    DurationHistogram,
    PlainValidator(lambda document: DurationHistogram.decoded(document["histogram"].encode())),
    PlainSerializer(DurationHistogram.document, return_type=Durations),
]


# Triton's names for the parts of a request's time in the server.
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


class ServerTimingsDocument(TypedDict):
    """The server's own statistics: the mean seconds that a request spent in each part, including the warm-up."""

    requests: int
    batches: int
    queue: NullForNan
    compute_input: NullForNan
    compute_infer: NullForNan
    compute_output: NullForNan


@dataclass(frozen=True)
class ServerTimings:
    """The total times of `count` answered requests in seconds, and the number of batches (execution_count).

    The parts of the time are waiting for a free instance (queue), gathering the batch (compute_input), running the
    network (compute_infer), and splitting the batch into answers (compute_output).
    """

    count: int = 0
    batches: int = 0
    queue: float = 0.0
    compute_input: float = 0.0
    compute_infer: float = 0.0
    compute_output: float = 0.0

    @classmethod
    def summed(cls, parts: Iterable["ServerTimings | None"]) -> "ServerTimings | None":
        """Add up timings. Timings that are None are skipped; the sum is None if all are None."""
        known = [part for part in parts if part is not None]
        return cls(*(sum(getattr(part, field.name) for part in known) for field in fields(cls))) if known else None

    def since(self, before: "ServerTimings") -> "ServerTimings | None":
        """Return the increase since `before`; None if a sum decreased, after a restart or on another server."""
        counted = {f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)}
        return ServerTimings(**counted) if min(counted.values()) >= 0 else None

    def mean(self, part: str) -> float:
        """Return the mean seconds that a request spent in one of PARTS; NaN if there were no requests."""
        return float(getattr(self, part)) / self.count if self.count else float("nan")

    def document(self) -> dict[str, Any]:
        return {"requests": self.count, "batches": self.batches, **{part: self.mean(part) for part in PARTS}}


# The type of a dataclass field that holds ServerTimings. In JSON, the field has what `ServerTimings.document` returns.
StoredTimings = Annotated[ServerTimings, PlainSerializer(ServerTimings.document, return_type=ServerTimingsDocument)]
