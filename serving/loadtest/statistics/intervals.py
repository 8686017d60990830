"""How sure a ratio is: t intervals over blocks, on a logarithmic scale.

It is the few blocks of a run that vary independently, not its many queries, which share what the machine was doing. A
bootstrap of so few is too narrow: of five blocks, its 95 % were 83 %. Sectioning holds what it says: the figure of all
blocks together is the estimate, the squared distances of the blocks' own figures from it give the variance, and
Student's t allows for how few they are. Of a ratio the logarithm is taken, which makes it symmetric.

Sources: Asmussen and Glynn 2007, Stochastic Simulation, III.5a; for percentiles, Nakayama 2014, Confidence Intervals
for Quantiles Using Sectioning When Applying Variance-Reduction Techniques.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.serving.loadtest.statistics import student_t as student
from hangtag.serving.loadtest.statistics.percentiles import Counts, Values, percentile, percentiles


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
    values: Values, numerator: Counts, denominator: Counts, q: float, *, paired: bool = True
) -> Interval:
    """How many times the denominator's percentile the numerator's is, over counts [blocks, values] of each.

    Where block i of both ran next to each other (`paired`), it is the blocks' ratios that vary: what slowed down a
    whole round of blocks cancels out. Where not, both vary on their own, and the degrees of freedom are Welch's (1947).
    Raises ValueError.
    """
    seen = numerator.any(axis=0) | denominator.any(axis=0)  # Most places are empty, and there are many.
    values, parts = values[seen], (numerator[:, seen], denominator[:, seen])
    above, below = (percentiles(values, counts, q) for counts in parts)
    whole_above, whole_below = (percentile(values, counts.sum(axis=0), q) for counts in parts)
    return _ratio(above, below, whole_above, whole_below, paired)


def ratio_of_rates(numerator: Values, denominator: Values, *, paired: bool = True) -> Interval:
    """How many times the denominator's mean rate the numerator's is, over the rates [blocks] of each; as above."""
    above, below = (float(rates.mean()) if rates.size else math.nan for rates in (numerator, denominator))
    return _ratio(numerator, denominator, above, below, paired)


def _ratio(above: Values, below: Values, whole_above: float, whole_below: float, paired: bool) -> Interval:
    """`above` and `below` are the figures [blocks] of each block, the whole ones those of all blocks together."""
    if paired and len(above) != len(below):
        raise ValueError(f"paired blocks come in pairs, not {len(above)} beside {len(below)}")
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(np.divide(whole_above, whole_below))
        apart = [np.log(above / whole_above), np.log(below / whole_below)]
        if paired:
            apart = [apart[0] - apart[1]]
        margin = _margin(apart)
        low, high = estimate * np.exp([-margin, margin])
    return Interval(estimate, float(low), float(high))


def _margin(sections: list[npt.NDArray[np.float64]]) -> float:
    """How far from the truth a sum of means lies at most, given how far each one's sections are from it."""
    sizes = [len(section) for section in sections]
    if min(sizes) < 2 or not all(np.isfinite(section).all() for section in sections):
        return math.nan
    variances = [float(section @ section) / (size * (size - 1)) for section, size in zip(sections, sizes, strict=True)]
    variance = sum(variances)
    if not variance:
        return 0.0
    # As shares, which do not underflow. Rounded down, so on the safe side; a tiny bit up before that: 4 is not 3.
    shares = sum((part / variance) ** 2 / (size - 1) for part, size in zip(variances, sizes, strict=True))
    return student.reach(math.floor(1 / shares + 1e-9)) * math.sqrt(variance)
