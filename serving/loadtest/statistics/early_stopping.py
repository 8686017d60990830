"""How many queries a statement about a percentile needs: MLPerf LoadGen's early stopping.

Say that more than a share 1 - p of all queries would be over a bound. Then the number over it among n is at least as
large as a binomial's with n trials of probability 1 - p. Seeing t or fewer of them is so unlikely (at most 1 -
CONFIDENCE) once n is large enough that the assumption falls: the percentile keeps the bound.

Source: MLPerf Inference, LoadGen, "Early Stopping Criterion"; the binomial itself is summed here.
"""

import math

CONFIDENCE = 0.99


def samples_needed(over: int, q: float, confidence: float = CONFIDENCE) -> int:
    """The smallest n at which `over` queries above a bound still show that the q-th percentile keeps it.

    That is the smallest n with P[Binomial(n, 1 - q/100) <= over] <= 1 - confidence. Raises ValueError.
    """
    if over < 0:
        raise ValueError(f"a count of queries is 0 or more, not {over}")
    above = _share_above(q, confidence)
    # The probability falls as n grows: double until it is small enough, then halve the gap.
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
    """How many of `queries` may be above a bound for the q-th percentile to be shown to keep it; -1 when they are too
    few to show anything."""
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
    """Whether `over` of `queries` above a bound show that the q-th percentile keeps it."""
    return over <= over_allowed(queries, q, confidence)


def _share_above(q: float, confidence: float) -> float:
    if not 0 < q < 100:
        raise ValueError(f"early stopping is for percentiles between 0 and 100, not {q:g}")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not at {confidence:g}")
    return 1 - q / 100


def _at_most(count: int, trials: int, probability: float) -> float:
    """P[Binomial(trials, probability) <= count], summed from its largest term down, where it no longer matters."""
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
