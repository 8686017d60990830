"""How long requests spent in each part of the server: sums that the server counts itself, and arithmetic on them."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self

# Triton's names for the parts of a request's time in the server.
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class ServerTimings:
    """Sums over `count` answered requests, in seconds; `batches` is the number of executions (Triton: execution_count).

    queue: waiting for a free instance. compute_input: gathering the batch. compute_infer: running the network.
    compute_output: splitting the batch into answers.
    """

    count: int = 0
    batches: int = 0
    queue: float = 0.0
    compute_input: float = 0.0
    compute_infer: float = 0.0
    compute_output: float = 0.0

    @classmethod
    def summed(cls, parts: Iterable["ServerTimings"]) -> Self:
        """Add up several intervals, or several versions of one model."""
        timings = list(parts)
        return cls(**{field.name: sum(getattr(part, field.name) for part in timings) for field in fields(cls)})

    def since(self, before: "ServerTimings") -> "ServerTimings | None":
        """What was counted after `before`; None where a sum fell, as the server restarted, or is another one."""
        counted = {f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)}
        return ServerTimings(**counted) if min(counted.values()) >= 0 else None

    def mean(self, part: str) -> float:
        """Mean seconds that a request spent in one of PARTS; NaN without requests."""
        return float(getattr(self, part)) / self.count if self.count else float("nan")
