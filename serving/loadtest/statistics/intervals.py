"""Confidence intervals of ratios: Student's t over blocks, on a logarithmic scale, without scipy.

The blocks of a run vary independently; the many queries of a block do not, since they share the machine's state. There
are too few blocks for a bootstrap: with five blocks its 95 % intervals held the truth in 83 % of simulations.
Sectioning holds its level: the figure over all blocks is the estimate, the squared distances of the blocks' figures
from it give the variance, and Student's t accounts for the small number of blocks. The logarithm makes a ratio
symmetric.

Sources: Asmussen and Glynn 2007, Stochastic Simulation, III.5a; for percentiles, Nakayama 2014, Confidence Intervals
for Quantiles Using Sectioning When Applying Variance-Reduction Techniques.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from hangtag.serving.loadtest.statistics.percentiles import Counts, Values, percentile, percentiles

# An interval around 1 that spans this factor does not even exclude that one figure is twice the other.
TOO_WIDE = 4
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval; `low` and `high` are NaN with fewer than two blocks."""

    estimate: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether `low` and `high` are known."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def shows_difference(self) -> bool:
        """Whether a ratio of 1 lies outside the interval."""
        return self.known and not self.low <= 1 <= self.high

    @property
    def too_wide(self) -> bool:
        """Whether a ratio's interval holds 1 and also much smaller or larger ratios, so that it says nothing."""
        return self.known and not self.shows_difference and self.high > TOO_WIDE * self.low


def ratio_of_percentiles(
    values: Values, numerator: Counts, denominator: Counts, q: float, *, paired: bool = True
) -> Interval:
    """The ratio of two targets' q-th percentiles.

    Args:
        values: Ascending values [values].
        numerator: Counts [blocks, values] of one target.
        denominator: Counts [blocks, values] of the other.
        q: Between 0 and 100.
        paired: Block i of both targets ran next to each other, so the variance is that of the blocks' ratios: a
            slowdown of a whole round of blocks cancels out. Otherwise the two vary independently, with Welch's (1947)
            degrees of freedom.

    Raises:
        ValueError: When q is out of range, or paired blocks differ in number.
    """
    occupied = numerator.any(axis=0) | denominator.any(axis=0)  # Most of the many buckets are empty.
    values, parts = values[occupied], (numerator[:, occupied], denominator[:, occupied])
    above, below = (percentiles(values, counts, q) for counts in parts)
    total_above, total_below = (percentile(values, counts.sum(axis=0), q) for counts in parts)
    return _ratio(above, below, total_above, total_below, paired)


def ratio_of_rates(numerator: Values, denominator: Values, *, paired: bool = True) -> Interval:
    """The ratio of two targets' mean rates, from rates [blocks] of each. `paired` as in `ratio_of_percentiles`.

    Raises ValueError when paired blocks differ in number.
    """
    above, below = (float(rates.mean()) if rates.size else math.nan for rates in (numerator, denominator))
    return _ratio(numerator, denominator, above, below, paired)


def _ratio(above: Values, below: Values, total_above: float, total_below: float, paired: bool) -> Interval:
    """`above` and `below` hold each block's figure [blocks]; the totals are the figures over all blocks."""
    if paired and len(above) != len(below):
        raise ValueError(f"paired blocks come in pairs, not {len(above)} beside {len(below)}")
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(np.divide(total_above, total_below))
        deviations = [np.log(above / total_above), np.log(below / total_below)]
        if paired:
            deviations = [deviations[0] - deviations[1]]
        margin = _margin(deviations)
        low, high = estimate * np.exp([-margin, margin])
    return Interval(estimate, float(low), float(high))


def _margin(sections: list[npt.NDArray[np.float64]]) -> float:
    """Half the width of the interval of a sum of means, given each mean's deviations by section."""
    sizes = [len(section) for section in sections]
    if min(sizes) < 2 or not all(np.isfinite(section).all() for section in sections):
        return math.nan
    variances = [float(section @ section) / (size * (size - 1)) for section, size in zip(sections, sizes, strict=True)]
    variance = sum(variances)
    if not variance:
        return 0.0
    # Shares of the variance do not underflow. Degrees of freedom are rounded down, which is conservative; the 1e-9
    # keeps float error from turning 4 into 3.
    shares = sum((part / variance) ** 2 / (size - 1) for part, size in zip(variances, sizes, strict=True))
    return critical_value(math.floor(1 / shares + 1e-9)) * math.sqrt(variance)


@cache
def critical_value(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t with P[|T| <= t] = confidence, for a T with this many degrees of freedom. Raises ValueError."""
    if freedom < 1:
        raise ValueError(f"t has 1 degree of freedom or more, not {freedom}")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not at {confidence:g}")
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        if _probability(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.tan(high) * math.sqrt(freedom)


def _probability(angle: float, freedom: int) -> float:
    """P[|T| <= tan(angle) * sqrt(freedom)]: Abramowitz and Stegun 1964, 26.7.3 (odd) and 26.7.4 (even)."""
    odd = freedom % 2
    total = term = 1.0
    for factor in range(3 if odd else 2, freedom, 2):
        term *= (factor - 1) / factor * math.cos(angle) ** 2
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * math.cos(angle) * total if freedom > 1 else 0.0))
