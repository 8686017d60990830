"""Computes confidence intervals of shares, figures and ratios, and how many queries suffice to judge a percentile.

The confidence intervals of figures and ratios use Student's t over blocks, on a logarithmic scale, which makes ratios
symmetric. The blocks of a run vary independently. The queries of a block do not vary independently, because they share
the machine's state. There are too few blocks for a bootstrap: its 95 % intervals contained the true value in only 83 %
of simulations with five blocks. With sectioning, 95 % of the intervals contained the true value. The estimate is the
figure over all blocks. The blocks' deviations from the estimate give the variance, and Student's t accounts for the
small number of blocks.

MLPerf LoadGen's early stopping judges whether a percentile exceeds a bound. The null hypothesis is that a query exceeds
the bound with a probability of more than 1 - p. If this hypothesis is true, the number of queries over the bound, out
of n queries, is stochastically at least Binomial(n, 1 - p). If t queries exceed the bound and
P[Binomial(n, 1 - p) <= t] <= 0.01, the null hypothesis is rejected, and the percentile p counts as within the bound.

Sources: Asmussen and Glynn 2007, Stochastic Simulation, III.5a; for percentiles, Nakayama 2014, Confidence Intervals
for Quantiles Using Sectioning When Applying Variance-Reduction Techniques; MLPerf Inference, LoadGen, "Early Stopping
Criterion".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # and not scipy.special, whose import takes a fifth of a second, and which scipy imports at the first use

from hangtag.serving.loadtest.record import NullForNan, shown, stored, unstored
from hangtag.serving.loadtest.statistics.durations import Values

# A ratio's interval is too wide if it contains 1 and its upper end divided by its lower end exceeds this number.
TOO_WIDE = 4
CONFIDENCE = 0.95
# LoadGen's rule is that a system's results are valid only if the system reaches 99 % of the reference accuracy.
REFERENCE_SHARE = 0.99
# Early stopping wrongly accepts a percentile above the bound with at most this probability.
REJECTED = 0.01
# scipy computes the number of queries as a real number, with a rounding error below this limit.
_ROUNDING = 1e-6


def samples_needed(over: int, q: float) -> int:
    """Return how many queries are needed to show that the q-th percentile meets a bound, if `over` queries exceed the
    bound: the smallest n with P[Binomial(n, 1 - q/100) <= over] <= 0.01."""
    return math.ceil(scipy.special.bdtrin(over, REJECTED, 1 - q / 100) - _ROUNDING)


def over_allowed(queries: int, q: float) -> int:
    """Return the largest number of `queries` that may exceed a bound while the test still shows that the q-th
    percentile meets it; -1 if there are too few queries."""
    if queries < samples_needed(0, q):
        return -1
    return math.floor(scipy.special.bdtrik(REJECTED, queries, 1 - q / 100) + _ROUNDING)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval (Student's t over blocks).

    If there is only one block, `low` and `high` are unknown. Unknown limits are NaN in this object, and null in the
    document.
    """

    estimate: NullForNan = stored(name="ratio")
    low: NullForNan = stored()
    high: NullForNan = stored()

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def shows_difference(self) -> bool:
        """Whether the interval of a ratio excludes 1."""
        return self.known and not self.low <= 1 <= self.high

    @property
    def too_wide(self) -> bool:
        """Whether the interval of a ratio contains 1 but is so wide that it says nothing."""
        return self.known and not self.shows_difference and self.high > TOO_WIDE * self.low


@dataclass(frozen=True)
class Sections:
    """A figure of a run, such as the p99, computed for all blocks together and for each block [blocks]."""

    total: float
    blocks: Values

    def interval(self) -> Interval:
        return _interval(self.total, [self._deviations()])

    def ratio_to(self, other: "Sections", *, paired: bool = True) -> Interval:
        """Return the ratio of this figure to the figure of another run.

        If the blocks are paired, block i of this run ran next to block i of the other run, for each i. The variance is
        then computed from the blocks' ratios, in which a slowdown of both blocks cancels out. If one run has fewer
        blocks, because the test was interrupted, the interval is unknown. Blocks that are not paired vary
        independently, and Welch's (1947) formula gives the degrees of freedom.
        """
        deviations = [self._deviations(), other._deviations()]
        with np.errstate(divide="ignore", invalid="ignore"):
            estimate = float(np.divide(self.total, other.total))
            if paired and len(self.blocks) != len(other.blocks):
                return Interval(estimate, math.nan, math.nan)
            return _interval(estimate, [deviations[0] - deviations[1]] if paired else deviations)

    def _deviations(self) -> Values:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(self.blocks / self.total)


def _interval(estimate: float, deviations: Sequence[Values]) -> Interval:
    low, high = estimate * np.exp(_margin(deviations) * np.array([-1.0, 1.0]))
    return Interval(estimate, float(low), float(high))


def _margin(sections: Sequence[Values]) -> float:
    """Return the half-width of the confidence interval of a sum of independent sample means. For each mean,
    ``sections`` has an array with the deviation of each block from this mean."""
    sizes = [len(section) for section in sections]
    if min(sizes) < 2 or not all(np.isfinite(section).all() for section in sections):
        return math.nan
    variances = [float(section @ section) / (size * (size - 1)) for section, size in zip(sections, sizes, strict=True)]
    variance = sum(variances)
    if not variance:
        return 0.0
    # The degrees of freedom are computed from shares of the variance, because squares of the variances could underflow.
    # The degrees of freedom are rounded down, which widens the interval. Adding 1e-9 prevents a float error from
    # turning 4 into 3.
    shares = sum((part / variance) ** 2 / (size - 1) for part, size in zip(variances, sizes, strict=True))
    freedom = math.floor(1 / shares + 1e-9)
    return float(scipy.special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(variance)


def wilson(successes: int, trials: int) -> Interval:
    """Return the success rate with its 95 % interval (Wilson 1927)."""
    z = float(scipy.special.ndtri((1 + CONFIDENCE) / 2))
    share, scale = successes / trials, 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    margin = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return Interval(share, centre - margin, centre + margin)


def difference_of_shares(right: npt.NDArray[np.bool_], others_right: npt.NDArray[np.bool_]) -> Interval:
    """Return the difference of two targets' accuracies on the same samples.

    The arguments say whether each target classified each sample correctly [samples]. The variance depends only on the
    samples on which the two targets differ. Half a sample is added to each of the four outcomes (Agresti and Min 2005).
    """
    won, lost = int((right & ~others_right).sum()), int((others_right & ~right).sum())
    total, difference = len(right) + 2, won - lost
    z = float(scipy.special.ndtri((1 + CONFIDENCE) / 2))
    margin = z * math.sqrt(won + lost + 1 - difference**2 / total) / total
    return Interval(difference / len(right), difference / total - margin, difference / total + margin)


@dataclass(frozen=True)
class Accuracy:
    """The accuracy over all labelled samples, each sent once. `low` and `high` are the ends of the accuracy's 95 %
    interval."""

    correct: int = stored()
    total: int = stored()
    expected: float | None = stored("The accuracy that the model's file records for its test set.", default=None)
    comparable: bool = stored("Whether the samples are the test set that the model's file names.", default=False)
    # For each sample, whether it was classified correctly [samples].
    right: Any = unstored(default=None, repr=False, compare=False)

    @shown("accuracy")
    def share(self) -> float:
        """The accuracy, between 0 and 1."""
        return self.interval.estimate

    @shown()
    def low(self) -> float:
        """The lower end of the 95 % confidence interval of the accuracy for all images of this kind."""
        return self.interval.low

    @shown()
    def high(self) -> float:
        """The upper end of the 95 % confidence interval of the accuracy for all images of this kind."""
        return self.interval.high

    @property
    def interval(self) -> Interval:
        return wilson(self.correct, self.total)

    @property
    def invalid(self) -> str | None:
        """The reason why runs of this target are INVALID; None if they are not.

        If the accuracy is too low, the answers are wrong, and their speed says nothing about the model. A few samples
        may be misclassified by chance, so the runs are INVALID only if the whole interval is below the expected
        accuracy.
        """
        if self.expected is None or not self.comparable or self.high >= REFERENCE_SHARE * self.expected:
            return None
        return (
            f"its accuracy is too low: the server classifies {self.share:.2%} of {self.total:,} samples correctly, but "
            f"the model's file records {self.expected:.2%} for the same samples"
        )

    @property
    def note(self) -> str:
        """A note if the accuracy in the model's file is for other samples, and cannot be compared; else empty."""
        if self.expected is None or self.comparable:
            return ""
        return f"The model's file records {self.expected:.2%} for other samples, so the two figures are not compared."
