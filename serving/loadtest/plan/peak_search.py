"""The search for the highest rate that keeps a bound: pure arithmetic, told of each run's outcome."""

import math

from hangtag.serving.loadtest.plan.load import MAX_RATE

# How close (as a ratio) the found rate is to one that was shown not to keep the bound.
PRECISION = 1.05
LOWEST_RATE = 1.0


class PeakSearch:
    """Doubles or halves the rate until one keeps the bound and one does not, halves the gap between them, and then
    confirms: a peak is a rate that kept the bound in two runs, and what is near the edge passes once by luck."""

    def __init__(self, first: float, lowest: float = LOWEST_RATE) -> None:
        """`first` is the rate (calls/s) to begin with, `lowest` the one to give up at."""
        self._lowest = _three_digits(min(lowest, MAX_RATE))
        self._low: float | None = None  # The highest rate that kept the bound.
        self._high: float | None = None  # The lowest one that did not.
        self._confirming = False
        self._near = False  # A confirmation failed: the edge is just below.
        self.rate: float | None = _three_digits(min(max(first, self._lowest), MAX_RATE))
        self.peak: float | None = None

    def tell(self, kept: bool) -> None:
        """Say whether the run at `rate` kept the bound; `rate` is then the next one, or None once `peak` is known.

        `peak` stays None when even the lowest rate does not keep the bound.
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
                self._low, self._confirming, self._near = None, False, True
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
            lower = _three_digits(self._high / (PRECISION if self._near else 2.0))
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
