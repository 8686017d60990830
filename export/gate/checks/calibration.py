"""Check how well the file's probabilities match its accuracy, and that a temperature changed nothing else."""

import numpy as np

from hangtag.export.arrays import Answers, Array
from hangtag.export.errors import GateError
from hangtag.export.gate.check import CALIBRATION, PassedCheck
from hangtag.export.gate.runtime_answers import softmax, worst_image
from hangtag.training.data.dataset import Classes
from hangtag.training.metrics.calibration import BINS, reliability


def check(answered: Answers, classes: Classes, temperature: float = 1.0, before: Array | None = None) -> PassedCheck:
    """Measure the expected calibration error on the test set, and compare a file with the one before its temperature.

    No file is refused for its calibration error, not even where a temperature made it larger: its figures say so.

    Args:
        answered: the file's answers to the test images.
        classes: the true class of each image, [n].
        temperature: the one in the file's graph; 1 for none.
        before: the logits of the same file without a temperature, [n, labels]; None for none.

    Raises:
        GateError: the temperature changed a logit, or the most probable label of an image; the message names it.
    """
    logits, probabilities = answered["logits"], answered["probabilities"]
    error = reliability(probabilities, classes).error
    figures = {"images": len(classes), "bins": BINS, "expected_calibration_error": error}
    summary = f"expected calibration error {error:.2%}"
    if before is None:
        return PassedCheck(CALIBRATION, summary, figures)
    if not np.array_equal(logits, before):  # bit for bit, and not for NaN
        worst = worst_image(np.abs(logits - before))
        raise GateError(CALIBRATION, f"the temperature changes the file's logits; worst at test image {worst}.")
    of_label = probabilities[np.arange(len(logits)), logits.argmax(axis=1)]
    if (changed := np.flatnonzero(of_label < probabilities.max(axis=1))).size:
        raise GateError(
            CALIBRATION,
            f"by its probabilities the file answers with another label than by its logits, for {changed.size} of "
            f"{len(logits):,} test images, first for image {changed[0]}.",
        )
    error_before = reliability(softmax(before), classes).error
    return PassedCheck(
        CALIBRATION,
        f"{summary}, {error_before:.2%} before the temperature of {temperature:.3f}; no logit and no label changed",
        figures | {"before": error_before, "temperature": temperature},
    )
