"""MLPerf LoadGen's early stopping: how many queries a statement about a percentile needs.

Null hypothesis: a query exceeds the bound with a probability of more than 1 - p. The number of queries over the bound,
among n, is then stochastically at least Binomial(n, 1 - p). Where at most t queries exceed it and
P[Binomial(n, 1 - p) <= t] <= 1 - CONFIDENCE, the hypothesis is rejected: the percentile p keeps the bound.

Source: MLPerf Inference, LoadGen, "Early Stopping Criterion". The binomial distribution is summed here.
"""

import math

CONFIDENCE = 0.99


def samples_needed(over: int, q: float, confidence: float = CONFIDENCE) -> int:
    """The smallest n for which `over` of n queries above a bound still show that the q-th percentile keeps it.

    It is the smallest n with P[Binomial(n, 1 - q/100) <= over] <= 1 - confidence.

    Raises:
        ValueError: When an argument is out of range.
    """
    if over < 0:
        raise ValueError(f"a count of queries is 0 or more, not {over}")
    above = _share_above(q, confidence)
    # The probability falls as n grows: double n until it is small enough, then bisect.
    low, high = over, max(2 * over, 1)
    while _at_most(over, high, above) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _at_most(over, middle, above) <= 1 - confidence:
            high = middle
        else:
            low = middle
    return high


def over_allowed(queries: int, q: float, confidence: float = CONFIDENCE) -> int:
    """How many of `queries` may exceed a bound that the q-th percentile is shown to keep; -1 with too few queries.

    Raises ValueError.
    """
    above = _share_above(q, confidence)
    low, high = -1, max(queries, 0)
    while high - low > 1:
        middle = (low + high) // 2
        if _at_most(middle, queries, above) <= 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def keeps(queries: int, over: int, q: float, confidence: float = CONFIDENCE) -> bool:
    """Whether the q-th percentile is shown to keep a bound that `over` of `queries` exceed. Raises ValueError."""
    return over <= over_allowed(queries, q, confidence)


def _share_above(q: float, confidence: float) -> float:
    if not 0 < q < 100:
        raise ValueError(f"early stopping is for percentiles between 0 and 100, not {q:g}")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not at {confidence:g}")
    return 1 - q / 100


def _at_most(count: int, trials: int, probability: float) -> float:
    """P[Binomial(trials, probability) <= count], summed from the largest term down until terms no longer matter."""
    if count >= trials:
        return 1.0
    if count > trials * probability:
        return 1.0 - _at_most(trials - count - 1, trials, 1 - probability)
    odds = (1 - probability) / probability
    log_term = (
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(probability)
        + (trials - count) * math.log1p(-probability)
    )
    total = term = 1.0
    for successes in range(count, 0, -1):
        term *= successes / (trials - successes + 1) * odds
        total += term
        if term < total * 1e-15:
            break
    return math.exp(log_term) * total
