"""Does the exported file give the label sets of the PyTorch network, where a threshold decides?"""

import numpy as np

from hangtag.export.errors import GateError
from hangtag.export.gate.check import Check
from hangtag.export.gate.runtime_answers import Array
from hangtag.export.gate.tolerances import Rules

NAME = "agreement"


def check(probabilities: Array, expected: Array, threshold: float, rules: Rules) -> Check:
    """Compare the sets that the threshold makes of the file's probabilities [n, labels] and of PyTorch's.

    Raises GateError, which names the image where a label that differs was furthest from the threshold.
    """
    distance = np.abs(expected - threshold)
    # Where a label stands at the threshold within the tolerance either answer is right.
    differing = ((probabilities >= threshold) != (expected >= threshold)) & (distance > rules.absolute)
    wrong = np.flatnonzero(differing.any(axis=1))
    if wrong.size:
        worst = int(np.where(differing, distance, 0).max(axis=1).argmax())
        raise GateError(
            NAME,
            f"the file gives another set of labels than PyTorch for {wrong.size} of {len(expected)} images; worst at "
            f"image {worst}.",
        )
    figures = {"images": len(expected), "agreement": 1.0, "threshold": threshold}
    return Check(NAME, f"the same label sets for all of {len(expected)} images", figures)
