"""When a run ends: once it has reached its minimum duration and query count, or a maximum."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """A run ends once both minima are reached, or either maximum. Durations in seconds, without the warm-up."""

    min_duration: float
    min_query_count: int
    max_duration: float
    max_query_count: int

    def reached(self, elapsed: float, queries: int) -> bool:
        """Whether both minima are reached."""
        # A schedule may end exactly at the minimum: the tolerance keeps rounding from making it too short.
        return elapsed >= self.min_duration - 1e-9 and queries >= self.min_query_count

    def exceeded(self, elapsed: float, queries: int) -> bool:
        """Whether either maximum is reached."""
        return elapsed >= self.max_duration or queries >= self.max_query_count

    def per_block(self, blocks: int) -> "Limits":
        """The limits of each of `blocks` blocks that together reach these."""
        return Limits(
            min_duration=self.min_duration / blocks,
            min_query_count=math.ceil(self.min_query_count / blocks),
            max_duration=self.max_duration / blocks,
            max_query_count=math.ceil(self.max_query_count / blocks),
        )
