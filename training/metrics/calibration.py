"""How well a classifier's probabilities match how often it is right, and the temperature that makes them match."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.training.data.dataset import Classes

Floats = npt.NDArray[np.floating]
BINS = 15
"""As in Guo et al., On Calibration of Modern Neural Networks, ICML 2017."""
LOWEST, HIGHEST = 0.05, 20.0
"""The range of temperatures to try. A temperature outside it would make every answer certain, or all labels equally
probable."""
_HALVINGS = 50


@dataclass(frozen=True)
class Reliability:
    """Samples in bins of equal width by their confidence, the probability of the predicted label.

    Attributes:
        counts: Samples in each bin, [bins].
        confidence: The mean confidence in each bin, [bins]; 0 in an empty bin.
        accuracy: The share of each bin's samples that is right, [bins]; 0 in an empty bin.
    """

    counts: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: |accuracy - confidence| of the bins, weighted by their samples, 0 to 1."""
        return float(np.abs(self.accuracy - self.confidence) @ self.counts / self.counts.sum())


def reliability(probabilities: Floats, classes: Classes, bins: int = BINS) -> Reliability:
    """Compare confidence with accuracy, bin by bin. Bin m of M holds confidences above (m - 1) / M and up to m / M.

    Args:
        probabilities: [n, labels], n at least 1.
        classes: The true label of each sample, [n].

    Example:
        >>> sure_and_wrong_once = np.array([[0.99, 0.01]] * 4)
        >>> round(reliability(sure_and_wrong_once, np.array([0, 0, 0, 1], np.uint8)).error, 2)
        0.24
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == classes
    places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    of_bin = np.maximum(counts, 1)
    return Reliability(
        counts,
        np.bincount(places, weights=confidence, minlength=bins) / of_bin,
        np.bincount(places, weights=right, minlength=bins) / of_bin,
    )


def fit_temperature(logits: Floats, classes: Classes) -> float:
    """The temperature T with which softmax(logits / T) has the lowest cross-entropy.

    A temperature above 1 makes the answers less certain, below 1 more certain. It never changes the order of labels.

    Args:
        logits: [n, labels] of samples that the network was not trained on.
        classes: The true label of each sample, [n].

    Raises:
        ValueError: the logits are not finite, or no temperature from LOWEST to HIGHEST is the best.
    """
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    true = scores[np.arange(len(classes)), classes].mean()

    def slope(inverse: float) -> float:
        """The derivative of the cross-entropy with respect to 1 / T. It never falls, since the function is convex."""
        weights = np.exp(scores * inverse)
        return float(((weights * scores).sum(axis=1) / weights.sum(axis=1)).mean() - true)

    low, high = 1 / HIGHEST, 1 / LOWEST
    if not slope(low) < 0 < slope(high):  # written so that NaN fails
        raise ValueError(
            f"no temperature from {LOWEST:g} to {HIGHEST:g} fits {len(classes):,} images; the network is right about "
            f"{float((logits.argmax(axis=1) == classes).mean()):.1%} of them"
        )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)
