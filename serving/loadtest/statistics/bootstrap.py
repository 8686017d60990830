"""How sure a ratio is: bootstrap intervals over paired blocks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.loadtest.statistics.percentiles import Counts, Values, percentiles

Weights = npt.NDArray[np.int64]

BOOTSTRAP_RESAMPLES = 1000


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
    values: Values,
    numerator: Counts,
    denominator: Counts,
    q: float,
    random: np.random.Generator,
    *,
    paired: bool = True,
) -> Interval:
    """How many times the denominator's percentile the numerator's is, over counts [blocks, values] of each.

    Where block i of both ran next to each other (`paired`), a resample draws the same blocks for both (a paired block
    bootstrap): what slowed down a whole round of blocks cancels out of the ratio. Percentile method, Efron and
    Tibshirani 1993.
    """
    seen = numerator.any(axis=0) | denominator.any(axis=0)  # Most places are empty, and there are many.
    values, numerator, denominator = values[seen], numerator[:, seen], denominator[:, seen]

    def ratio(above: Weights, below: Weights) -> Values:
        return percentiles(values, above @ numerator, q) / percentiles(values, below @ denominator, q)

    return _bootstrap(ratio, len(numerator), len(denominator), random, paired)


def ratio_of_rates(
    numerator: Values, denominator: Values, random: np.random.Generator, *, paired: bool = True
) -> Interval:
    """How many times the denominator's mean rate the numerator's is, over the rates [blocks] of each; as above."""

    def ratio(above: Weights, below: Weights) -> Values:
        means = (above @ numerator / max(len(numerator), 1), below @ denominator / max(len(denominator), 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(means[0] / means[1], np.float64)

    return _bootstrap(ratio, len(numerator), len(denominator), random, paired)


def _bootstrap(
    ratio: Callable[[Weights, Weights], Values], above: int, below: int, random: np.random.Generator, paired: bool
) -> Interval:
    """`ratio` takes how often each block is drawn, [resamples, blocks], for the numerator and the denominator."""
    if paired and above != below:
        raise ValueError(f"paired blocks come in pairs, not {above} beside {below}")
    estimate = float(ratio(np.ones((1, above), np.int64), np.ones((1, below), np.int64))[0])
    if min(above, below) < 2 or not np.isfinite(estimate):
        return Interval(estimate, np.nan, np.nan)
    weights = _draws(above, random)
    resampled = ratio(weights, weights if paired else _draws(below, random))
    low, high = np.quantile(resampled[np.isfinite(resampled)], (0.025, 0.975))
    return Interval(estimate, float(low), float(high))


def _draws(blocks: int, random: np.random.Generator) -> Weights:
    return random.multinomial(blocks, np.full(blocks, 1 / blocks), BOOTSTRAP_RESAMPLES)
