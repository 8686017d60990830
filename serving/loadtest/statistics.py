"""Percentiles and intervals over counted values: pure functions on arrays."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

BOOTSTRAP_RESAMPLES = 1000


def percentile(values: Values, counts: Counts, q: float) -> float:
    """The nearest-rank percentile: the smallest value that at least q % of the samples do not exceed.

    `values` ascend, and `counts` says how often each occurred. NaN when nothing was counted.
    """
    return float(percentiles(values, counts[np.newaxis], q)[0])


def percentiles(values: Values, counts: npt.NDArray[np.generic], q: float) -> Values:
    """The same for several distributions over the same values: counts [n, values] to percentiles [n]."""
    if not 0 <= q <= 100:
        raise ValueError(f"a percentile lies between 0 and 100, not at {q}")
    if not values.size:
        return np.full(len(counts), np.nan)
    cumulative = np.cumsum(counts, axis=1)
    total = cumulative[:, -1:]
    # Rounded against float error: 99.9 % of 1,000 is 999, not 999.0000000000001.
    rank = np.maximum(np.ceil(np.round(total * (q / 100), 6)), 1)
    found = values[np.argmax(cumulative >= rank, axis=1)]
    return np.where(total[:, 0] > 0, found, np.nan)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval; the interval is NaN where it cannot be told."""

    estimate: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is an interval at all (it takes two blocks)."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def shows_difference(self) -> bool:
        """Whether a ratio of 1 lies outside the interval."""
        return self.known and not self.low <= 1 <= self.high


def ratio_of_percentiles(
    values: Values, numerator: Counts, denominator: Counts, q: float, random: np.random.Generator
) -> Interval:
    """How many times the denominator's percentile the numerator's is, over counts [blocks, values] of each.

    Block i of both ran next to each other, so a resample draws the same blocks for both (a paired block bootstrap):
    what slowed down a whole round of blocks cancels out of the ratio. Percentile method, Efron and Tibshirani 1993.
    """

    seen = numerator.any(axis=0) | denominator.any(axis=0)  # Most places are empty, and there are many.
    values, numerator, denominator = values[seen], numerator[:, seen], denominator[:, seen]

    def ratio(weights: npt.NDArray[np.int64]) -> Values:
        return percentiles(values, weights @ numerator, q) / percentiles(values, weights @ denominator, q)

    return _bootstrap(ratio, len(numerator), random)


def ratio_of_rates(numerator: Values, denominator: Values, random: np.random.Generator) -> Interval:
    """How many times the denominator's rate the numerator's is, over the rates [blocks] of each; paired as above."""

    def ratio(weights: npt.NDArray[np.int64]) -> Values:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((weights @ numerator) / (weights @ denominator), np.float64)

    return _bootstrap(ratio, len(numerator), random)


def _bootstrap(ratio: Callable[[npt.NDArray[np.int64]], Values], blocks: int, random: np.random.Generator) -> Interval:
    estimate = float(ratio(np.ones((1, blocks), np.int64))[0])
    if blocks < 2 or not np.isfinite(estimate):
        return Interval(estimate, np.nan, np.nan)
    weights = random.multinomial(blocks, np.full(blocks, 1 / blocks), BOOTSTRAP_RESAMPLES)
    resampled = ratio(weights)
    low, high = np.quantile(resampled[np.isfinite(resampled)], (0.025, 0.975))
    return Interval(estimate, float(low), float(high))
