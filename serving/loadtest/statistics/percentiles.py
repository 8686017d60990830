"""Nearest-rank percentiles of counted values."""

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def percentile(values: Values, counts: Counts, q: float) -> float:
    """The smallest value that at least q % of the samples do not exceed (nearest rank); NaN without samples.

    Args:
        values: Ascending values [values].
        counts: How often each value occurred [values].
        q: Between 0 and 100.

    Raises:
        ValueError: When q is out of range.
    """
    return float(percentiles(values, counts[np.newaxis], q)[0])


def percentiles(values: Values, counts: npt.NDArray[np.generic], q: float) -> Values:
    """The percentile of several distributions over the same values: counts [n, values] to percentiles [n].

    Raises ValueError when q is out of range.
    """
    if not 0 <= q <= 100:
        raise ValueError(f"a percentile lies between 0 and 100, not at {q}")
    if not values.size:
        return np.full(len(counts), np.nan)
    cumulative = np.cumsum(counts, axis=1)
    total = cumulative[:, -1:]
    # Rounded against float error: 99.9 % of 1,000 is 999, not 999.0000000000001.
    rank = np.maximum(np.ceil(np.round(total * (q / 100), 6)), 1)
    at_rank = values[np.argmax(cumulative >= rank, axis=1)]
    return np.where(total[:, 0] > 0, at_rank, np.nan)
