"""Check that the file gives PyTorch's label sets, for a network whose sets are made by a threshold."""

import numpy as np

from hangtag.export.arrays import Array
from hangtag.export.errors import GateError
from hangtag.export.gate.check import AGREEMENT, PassedCheck
from hangtag.export.gate.tolerances import Tolerances


def check(probabilities: Array, expected: Array, threshold: float, tolerances: Tolerances) -> PassedCheck:
    """Compare the label sets that the threshold makes of the file's probabilities and of PyTorch's, both [n, labels].

    Raises:
        GateError: a set differs; the message names the image where a differing label is furthest from the threshold.
    """
    distance = np.abs(expected - threshold)
    # Where a probability equals the threshold within the tolerance, either set is right.
    differing = ((probabilities >= threshold) != (expected >= threshold)) & (distance > tolerances.absolute)
    wrong = np.flatnonzero(differing.any(axis=1))
    if wrong.size:
        worst = int(np.where(differing, distance, 0).max(axis=1).argmax())
        raise GateError(
            AGREEMENT,
            f"the file gives another set of labels than PyTorch for {wrong.size} of {len(expected)} images; worst at "
            f"image {worst}.",
        )
    figures = {"images": len(expected), "agreement": 1.0, "threshold": threshold}
    return PassedCheck(AGREEMENT, f"the same label sets for all of {len(expected)} images", figures)
