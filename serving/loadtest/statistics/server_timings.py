"""Computes how long requests spent in each part of the server, from sums that the server reports."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Any

from pydantic import PlainSerializer
from typing_extensions import TypedDict

from hangtag.serving.loadtest.record import NullForNan

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
        """Add up the timings of several blocks, or of several versions of a model. Timings that are None are skipped;
        the sum is None if all are None."""
        known = [part for part in parts if part is not None]
        return cls(*(sum(getattr(part, field.name) for part in known) for field in fields(cls))) if known else None

    def since(self, before: "ServerTimings") -> "ServerTimings | None":
        """Return the growth since `before`; None if a sum fell, because the server restarted or is another server."""
        counted = {f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)}
        return ServerTimings(**counted) if min(counted.values()) >= 0 else None

    def mean(self, part: str) -> float:
        """Return the mean seconds that a request spent in one of PARTS; NaN if there were no requests."""
        return float(getattr(self, part)) / self.count if self.count else float("nan")

    def document(self) -> dict[str, Any]:
        """Return the mean timings as JSON."""
        return {"requests": self.count, "batches": self.batches, **{part: self.mean(part) for part in PARTS}}


# The type of a dataclass' field that holds the sums. The field is stored as the JSON document of the sums.
StoredTimings = Annotated[ServerTimings, PlainSerializer(ServerTimings.document, return_type=ServerTimingsDocument)]
