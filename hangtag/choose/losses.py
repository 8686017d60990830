"""What labelled samples show of the share of all samples of the kind that a cascade loses."""

import math

import numpy as np
import scipy  # imports scipy.special at its first use, which takes a fifth of a second

CONFIDENCE = 0.95
"""How sure it is that a cascade loses no more than its limit of all samples of the kind."""


def most_lost(samples: int, share: float) -> int:
    """How many samples a cascade may lose to show that it loses at most a share of all samples of the kind.

    This is the one-sided interval of Clopper and Pearson (1934): a cascade that loses more than the share loses so few
    of the samples in at most one of twenty cases. It holds for one cascade, chosen before it saw the samples, and for
    samples by which nothing was trained or chosen.

    Args:
        samples: The number of samples.
        share: The limit, 0 to 1.

    Returns:
        0 also if the samples are too few to show it (see ``least_samples``).

    Example:
        >>> most_lost(5_000, 0.001)
        1
    """
    chances = scipy.special.bdtr(np.arange(samples), samples, share)
    return max(0, int((chances <= 1 - CONFIDENCE).sum()) - 1)


def least_samples(share: float) -> int:
    """The fewest samples that can show that a cascade loses at most a share of all samples: if it loses none of them.

    Example:
        >>> least_samples(0.001)
        2995
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-share))


def may_lose(samples: int, lost: int) -> float:
    """The largest share of all samples of the kind that a cascade loses, with the confidence and under the conditions
    of ``most_lost``. It is rounded up to hundredths of a percent.

    Example:
        >>> f"{may_lose(5_000, 1):.3%}"
        '0.100%'
    """
    return math.ceil(1e4 * float(scipy.special.bdtri(lost, samples, 1 - CONFIDENCE))) / 1e4
