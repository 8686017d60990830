"""Computes from labelled samples an upper bound on the share of samples that a cascade loses."""

import math

import scipy  # importing scipy.special takes a fifth of a second, so scipy imports scipy.special at the first use

CONFIDENCE = 0.95
"""The confidence level of the upper bound on the share of lost samples."""


def shows_at_most(share: float, samples: int, lost: int) -> bool:
    """Return whether a number of lost test samples shows that a cascade loses at most ``share``.

    If there are fewer test samples than ``least_samples`` returns, no number shows this, and only 0 is accepted.

    Example:
        >>> shows_at_most(0.001, 5_000, 1), shows_at_most(0.001, 5_000, 2)
        (True, False)
    """
    return lost == 0 or bool(_bound(samples, lost) <= share)


def least_samples(share: float) -> int:
    """Return the smallest number of test samples that can show that a cascade loses at most ``share``.

    If a test has only that many samples, the cascade must not lose any of them.

    Example:
        >>> least_samples(0.001)
        2995
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-share))


def may_lose(samples: int, lost: int) -> float:
    """Return an upper bound on the share of samples that a cascade loses in the long run, rounded up to 0.01 %.

    Example:
        >>> f"{may_lose(5_000, 1):.3%}"
        '0.100%'
    """
    return math.ceil(1e4 * _bound(samples, lost)) / 1e4


def _bound(samples: int, lost: int) -> float:
    """Return the upper limit of the one-sided interval of Clopper and Pearson (1934).

    If a cascade loses more than this share in the long run, the probability that it loses no more than ``lost`` test
    samples is at most 5 %. The interval is valid if the test samples were used neither to train or choose a model nor
    to choose the cascade.
    """
    return float(scipy.special.bdtri(lost, samples, 1 - CONFIDENCE))
