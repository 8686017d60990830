"""Searches the highest request rate that keeps a latency bound. Pure arithmetic: the caller runs the load."""

import math

from hangtag.serving.loadtest.plan.load import MAX_RATE

# The peak is within this ratio of a rate that was shown not to keep the bound.
PRECISION = 1.05
LOWEST_RATE = 1.0  # Queries per second.


class PeakSearch:
    """A bisection on a logarithmic scale, with a second run to confirm the peak.

    It doubles or halves the rate until one rate keeps the bound and another does not, then bisects between them. A rate
    near the edge may pass once by luck, so a peak is a rate that kept the bound in two runs.

    Example:
        search = PeakSearch(first=100.0)
        while search.rate is not None:
            search.record(kept=measure(search.rate).keeps_bound)
        print(search.peak)
    """

    def __init__(self, first: float, lowest: float = LOWEST_RATE) -> None:
        """Start at the rate `first`, in queries per second, and give up at `lowest`."""
        self._lowest = _three_digits(min(lowest, MAX_RATE))
        self._low: float | None = None  # The highest rate that kept the bound.
        self._high: float | None = None  # The lowest rate that did not.
        self._confirming = False
        self._near_edge = False  # A confirmation failed, so the edge is just below.
        self.rate: float | None = _three_digits(min(max(first, self._lowest), MAX_RATE))
        self.peak: float | None = None

    def record(self, kept: bool) -> None:
        """Record whether the run at `rate` kept the bound, and choose the next `rate`.

        `rate` becomes None when the search ends; `peak` stays None when even the lowest rate did not keep the bound.

        Raises:
            ValueError: When the search has ended.
        """
        if self.rate is None:
            raise ValueError("the search has ended")
        if self._confirming and kept:
            self.peak, self.rate = self.rate, None
            return
        if kept:
            self._low = self.rate
        else:
            self._high = self.rate
            if self._confirming:
                self._low, self._confirming, self._near_edge = None, False, True
        self.rate = self._next()

    def _next(self) -> float | None:
        if self._high is None:
            assert self._low is not None
            if self._low >= MAX_RATE:
                return self._confirm(self._low)
            return min(_three_digits(2 * self._low), float(MAX_RATE))
        if self._low is None:
            if self._high <= self._lowest:
                return None
            lower = _three_digits(self._high / (PRECISION if self._near_edge else 2.0))
            return max(lower if lower < self._high else self._high / 2, self._lowest)
        middle = _three_digits(math.sqrt(self._low * self._high))
        if self._high / self._low <= PRECISION or not self._low < middle < self._high:
            return self._confirm(self._low)
        return middle

    def _confirm(self, rate: float) -> float:
        self._confirming = True
        return rate


def _three_digits(rate: float) -> float:
    return float(f"{rate:.3g}")
