"""Measures how well a classifier's probabilities match its accuracy, and fits the temperature that makes them match."""

import numpy as np
import numpy.typing as npt

from hangtag.training.data.dataset import Classes

Floats = npt.NDArray[np.floating]
BINS = 15
"""The number of bins, as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017."""
LOWEST, HIGHEST = 0.05, 20.0
"""The range of temperatures. A lower temperature would make every prediction certain, and a higher temperature would
make all labels equally probable."""


def calibration_error(probabilities: Floats, classes: Classes) -> float:
    """Return the expected calibration error of probabilities [n, labels] for true classes [n]: the mean difference
    between confidence and accuracy, from 0 to 1.

    Samples are put into BINS bins of equal width by the probability of the predicted label. A bin includes its upper
    end. The |accuracy - confidence| of a bin is weighted by the number of its samples.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == classes
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return float(np.abs(np.bincount(bins, weights=right - confidence)).sum() / len(confidence))


def fit_temperature(logits: Floats, classes: Classes) -> float:
    """Return the temperature T with which softmax(logits / T) has the lowest cross-entropy, for the logits [n, labels]
    and true classes [n] of samples that the network was not trained on. Raises ValueError if the logits are not finite,
    or if the best temperature is not between LOWEST and HIGHEST."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    true = scores[np.arange(len(classes)), classes].mean()

    def slope(inverse: float) -> float:
        """Return the derivative of the cross-entropy with respect to 1 / T. The derivative never falls, because the
        cross-entropy is convex."""
        weights = np.exp(scores * inverse)
        return float(((weights * scores).sum(axis=1) / weights.sum(axis=1)).mean() - true)

    low, high = 1 / HIGHEST, 1 / LOWEST
    if not slope(low) < 0 < slope(high):  # the condition is written so that NaN fails
        raise ValueError(
            f"no temperature from {LOWEST:g} to {HIGHEST:g} fits {len(classes):,} images. The network classifies "
            f"{float((logits.argmax(axis=1) == classes).mean()):.1%} of these images correctly"
        )
    from scipy.optimize import brentq  # slow to import

    return 1 / float(brentq(slope, low, high))
