"""Computes from labelled samples an upper bound on the share of samples that a cascade loses."""

import math

import numpy as np
import scipy  # importing scipy.special takes a fifth of a second, so scipy imports scipy.special at the first use

CONFIDENCE = 0.95
"""The confidence level of the upper bound on the share of lost samples."""


def most_lost(samples: int, share: float) -> int:
    """Return the largest number of lost test samples that still shows that a cascade loses at most ``share``.

    The formula is the one-sided interval of Clopper and Pearson (1934). If a cascade loses more than ``share`` in the
    long run, the probability that it loses no more than the returned number of test samples is at most 5 %. The
    interval is valid if the test samples were used neither to train or choose a model nor to choose the cascade.

    Args:
        samples: The number of test samples.
        share: The limit, from 0 to 1.

    Returns:
        The number of samples; 0 if there are fewer test samples than ``least_samples`` returns.

    Example:
        >>> most_lost(5_000, 0.001)
        1
    """
    chances = scipy.special.bdtr(np.arange(samples), samples, share)
    return max(0, int((chances <= 1 - CONFIDENCE).sum()) - 1)


def least_samples(share: float) -> int:
    """Return the smallest number of test samples that can show that a cascade loses at most ``share``.

    If a test has only that many samples, the cascade must not lose any of them.

    Example:
        >>> least_samples(0.001)
        2995
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-share))


def may_lose(samples: int, lost: int) -> float:
    """Return an upper bound on the share of samples that a cascade loses in the long run.

    The confidence level is 95 %, under the conditions of ``most_lost``. The bound is rounded up to 0.01 %.

    Example:
        >>> f"{may_lose(5_000, 1):.3%}"
        '0.100%'
    """
    return math.ceil(1e4 * float(scipy.special.bdtri(lost, samples, 1 - CONFIDENCE))) / 1e4
