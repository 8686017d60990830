"""Quantiles of Student's t distribution, without scipy."""

import math
from functools import cache

CONFIDENCE = 0.95


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
