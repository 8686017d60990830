"""Computes how many queries suffice to judge a percentile, by MLPerf LoadGen's early stopping.

The null hypothesis is that a query exceeds the bound with a probability of more than 1 - p. If this hypothesis is true,
the number of queries over the bound, out of n queries, is stochastically at least Binomial(n, 1 - p). If at most t
queries exceed the bound and P[Binomial(n, 1 - p) <= t] <= 1 - CONFIDENCE, the hypothesis is rejected: the percentile p
does not exceed the bound.

Source: MLPerf Inference, LoadGen, "Early Stopping Criterion".
"""

import math

import scipy  # importing scipy.special takes a fifth of a second, so scipy imports scipy.special at the first use

CONFIDENCE = 0.99
# scipy's solution is a real number, with a rounding error below this limit.
_ROUNDING = 1e-6


def samples_needed(over: int, q: float) -> int:
    """Return how many queries are needed to show that the q-th percentile meets a bound, if `over` queries exceed the
    bound.

    The result is the smallest n with P[Binomial(n, 1 - q/100) <= over] <= 1 - CONFIDENCE.
    """
    return math.ceil(scipy.special.bdtrin(over, 1 - CONFIDENCE, 1 - q / 100) - _ROUNDING)


def over_allowed(queries: int, q: float) -> int:
    """Return how many of `queries` may exceed a bound so that the q-th percentile is still shown to meet the bound.

    If there are too few queries, the result is -1.
    """
    if queries < samples_needed(0, q):
        return -1
    return math.floor(scipy.special.bdtrik(1 - CONFIDENCE, queries, 1 - q / 100) + _ROUNDING)
