"""Check a file's answers on the whole test set: its labels, its accuracy, and how well its probabilities match that."""

import numpy as np

from hangtag.export.arrays import Answers, Array
from hangtag.export.errors import GateError
from hangtag.export.gate.check import AGREEMENT, CALIBRATION, PassedCheck
from hangtag.export.gate.reference import softmax, worst_image
from hangtag.export.gate.tolerances import Tolerances
from hangtag.training.data.dataset import Classes
from hangtag.training.metrics.calibration import BINS, reliability
from hangtag.training.metrics.single_label import evaluate


def check_labels(
    logits: Array, expected: Array, classes: Classes, tolerances: Tolerances, against: str = "PyTorch"
) -> PassedCheck:
    """Compare the file's logits with PyTorch's, and both with the true classes.

    Args:
        logits: the file's, [n, labels].
        expected: PyTorch's, [n, labels].
        classes: the true class of each image, [n].
        against: what gave the expected logits, for the messages.

    Raises:
        GateError: too few labels agree, or too much accuracy is lost; the message names the image where PyTorch's
            margin between its two best labels was largest.
    """
    predicted, expected_labels = logits.argmax(axis=1), expected.argmax(axis=1)
    top = np.sort(expected, axis=1)
    margin = top[:, -1] - top[:, -2]
    # In fp32 either label is right where two are tied within the tolerance.
    tied = margin <= tolerances.absolute if tolerances.agreement == 1 else np.zeros(len(margin), dtype=bool)
    differing = np.flatnonzero((predicted != expected_labels) & ~tied)
    agreeing = 1 - len(differing) / len(predicted)
    worst = _largest_margin(margin, differing) if differing.size else None
    if agreeing < tolerances.agreement:
        raise GateError(
            AGREEMENT,
            f"the file gives another class than {against} for {len(differing)} of {len(predicted):,} test images "
            f"({agreeing:.2%} agree, {tolerances.agreement:.1%} must); worst at test image {worst}.",
        )
    accuracy, expected_accuracy = (evaluate(scores, classes).accuracy for scores in (logits, expected))
    changed_ties = int((tied & (predicted != expected_labels)).sum())
    allowed_loss = (1 - tolerances.accuracy) * expected_accuracy + changed_ties / len(predicted)
    if expected_accuracy - accuracy > allowed_loss + 1e-9:  # of the subtraction
        lost = differing[expected_labels[differing] == classes[differing]]
        raise GateError(
            AGREEMENT,
            f"the file is right about {accuracy:.2%} of the test set and {against} about {expected_accuracy:.2%}; it "
            f"must keep {tolerances.accuracy:.1%} of that; worst at test image {_largest_margin(margin, lost)}.",
        )
    same = "every answer the same" if not differing.size else f"{agreeing:.2%} of the answers the same"
    if changed_ties:
        same += f" but {changed_ties}, each with two tied labels"
    return PassedCheck(
        AGREEMENT,
        f"test accuracy {accuracy:.2%}, {same}",
        {
            "images": len(predicted),
            "agreement": agreeing,
            "least_agreement": tolerances.agreement,
            "accuracy": accuracy,
            "pytorch_accuracy": expected_accuracy,
            "least_share_of_accuracy": tolerances.accuracy,
            "differing": len(differing),
            "level": changed_ties,
            "worst_image": worst,
        },
    )


def check_sets(probabilities: Array, expected: Array, threshold: float, tolerances: Tolerances) -> PassedCheck:
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


def _largest_margin(margin: Array, images: Array) -> int:
    return int(images[margin[images].argmax()])


def check_calibration(
    answered: Answers, classes: Classes, temperature: float = 1.0, before: Array | None = None
) -> PassedCheck:
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
