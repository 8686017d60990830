"""Bounds the share of all samples of a kind that a cascade loses, from the number of labelled samples that it lost."""

import math

import numpy as np
import scipy  # importing scipy.special takes a fifth of a second, so scipy imports scipy.special at the first use

CONFIDENCE = 0.95
"""The confidence that the share of samples that a cascade loses is at most the limit."""


def most_lost(samples: int, share: float) -> int:
    """Return how many samples a cascade may lose if these samples must show that it loses at most a share of all.

    The formula is the one-sided interval of Clopper and Pearson (1934). If a cascade loses more than the share of all
    samples of the kind, the probability that it loses no more than the returned number of these samples is at most 5 %.
    The interval holds for a single cascade that was not chosen by these samples, and for samples by which no model was
    trained or chosen.

    Args:
        samples: The number of samples.
        share: The limit, from 0 to 1.

    Returns:
        The number of samples, or 0 if there are fewer samples than ``least_samples`` demands.

    Example:
        >>> most_lost(5_000, 0.001)
        1
    """
    chances = scipy.special.bdtr(np.arange(samples), samples, share)
    return max(0, int((chances <= 1 - CONFIDENCE).sum()) - 1)


def least_samples(share: float) -> int:
    """Return the smallest number of samples that can show that a cascade loses at most a share of all samples.

    With this number of samples, the cascade must not lose any sample.

    Example:
        >>> least_samples(0.001)
        2995
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-share))


def may_lose(samples: int, lost: int) -> float:
    """Return an upper bound on the share of all samples of the kind that a cascade loses.

    The bound has the confidence and the conditions of ``most_lost``, and is rounded up to hundredths of a percent.

    Example:
        >>> f"{may_lose(5_000, 1):.3%}"
        '0.100%'
    """
    return math.ceil(1e4 * float(scipy.special.bdtri(lost, samples, 1 - CONFIDENCE))) / 1e4
