"""Check a file's answers on the whole test set: the labels, the accuracy, and the calibration."""

import math

import numpy as np

from hangtag.export.errors import GateError
from hangtag.export.gate.check import AGREEMENT, CALIBRATION, PassedCheck
from hangtag.export.gate.network_answers import softmax, worst_image
from hangtag.export.gate.tolerances import Tolerances
from hangtag.export.network_arrays import Answers, Array
from hangtag.training.data.dataset import Classes
from hangtag.training.metrics.calibration import BINS, calibration_error
from hangtag.training.metrics.class_metrics import evaluate


def check_labels(logits: Array, expected: Array, classes: Classes, tolerances: Tolerances) -> PassedCheck:
    """Compare the file's logits with PyTorch's, and both with the true classes.

    Args:
        logits: the file's logits, [n, labels].
        expected: PyTorch's logits, [n, labels].
        classes: the true class of each image, [n].

    Raises:
        GateError: too few labels agree, or too much accuracy is lost. Of the images whose labels differ, the message
            names the image with the largest margin between PyTorch's two best labels.
    """
    predicted, expected_labels = logits.argmax(axis=1), expected.argmax(axis=1)
    top = np.sort(expected, axis=1)
    margin = top[:, -1] - top[:, -2]
    # In fp32, if two labels' logits are equal within the tolerance, either label is right.
    tied = margin <= tolerances.absolute if tolerances.agreement == 1 else np.zeros(len(margin), dtype=bool)
    differing = np.flatnonzero((predicted != expected_labels) & ~tied)
    agreeing = 1 - len(differing) / len(predicted)
    worst = _largest_margin(margin, differing) if differing.size else None
    one = tolerances.one_image(len(predicted))
    remedy = " Export it in fp32, or train it longer: an unsure network's answers change most." if one else ""
    if agreeing < min(tolerances.agreement, 1 - one):
        raise GateError(
            AGREEMENT,
            f"the file and PyTorch give different classes for {len(differing)} of {len(predicted):,} test images "
            f"({agreeing:.2%} agree, but {tolerances.agreement:.1%} must agree); worst at test image {worst}.{remedy}",
        )
    accuracy, expected_accuracy = (evaluate(scores, classes).accuracy for scores in (logits, expected))
    changed_ties = int((tied & (predicted != expected_labels)).sum())
    allowed_loss = max((1 - tolerances.accuracy) * expected_accuracy, one) + changed_ties / len(predicted)
    if expected_accuracy - accuracy > allowed_loss + 1e-9:  # 1e-9 allows for the rounding of the subtraction
        lost = differing[expected_labels[differing] == classes[differing]]
        raise GateError(
            AGREEMENT,
            f"the file classifies {accuracy:.2%} of the test set correctly, and PyTorch {expected_accuracy:.2%}; the "
            f"file must keep {tolerances.accuracy:.1%} of PyTorch's accuracy; worst at test image "
            f"{_largest_margin(margin, lost)}.{remedy}",
        )
    same = f"{'every answer' if not differing.size else f'{agreeing:.2%} of the answers'} like PyTorch's"
    if changed_ties:
        same += f" except for {changed_ties}, each with two tied labels"
    return PassedCheck(
        AGREEMENT,
        f"test accuracy {accuracy:.2%} of {len(predicted):,} images, {same}",
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


def require_recorded(logits: Array, classes: Classes, recorded: tuple[float, int]) -> None:
    """Compare a network's accuracy with the accuracy that its run recorded. The network's code may have changed.

    The training device may have rounded differently, so one image in 200 may get another answer. With fewer than 20
    images, no answer may change. If the run measured its accuracy on other images, chance may explain a part of the
    difference.

    Args:
        logits: The logits of the network that the current code builds, [n, labels].
        classes: The true class of each image, [n].
        recorded: The share of correct answers after training, and the number of images.

    Raises:
        GateError: The accuracies differ by more than is allowed. The message has both accuracies.
    """
    count, (share, images) = len(classes), recorded
    accuracy = evaluate(logits, classes).accuracy
    allowed = math.ceil(count / 200) if count >= 20 else 0
    # A difference of up to four standard deviations may be due to chance, because the run and this check measured
    # different images.
    allowed += math.ceil(4 * count * math.sqrt(share * (1 - share) * abs(1 / count - 1 / images)))
    if abs(accuracy - share) * count > allowed + 0.01:  # 0.01 allows for the rounding of the recorded accuracy
        raise GateError(
            AGREEMENT,
            f"the network classifies {accuracy:.2%} of {count:,} test images correctly, but the run recorded "
            f"{share:.2%} of {images:,}, so the network's code or the pictures have changed since training. Restore "
            "them, or train the network again. If neither has changed, the training on a GPU or in bf16 rounded "
            "differently. In this case, train for one more epoch on this CPU: add --start-from RUN/best.pt --epochs 1 "
            "--device cpu and another --out to the training command. Then export the new run.",
        )


def check_sets(probabilities: Array, expected: Array, threshold: float, tolerances: Tolerances) -> PassedCheck:
    """Apply the threshold to the probabilities of the file and of PyTorch, [n, labels], and compare the label sets.

    Raises:
        GateError: a set differs. Of the labels that differ, the message takes the one whose probability is furthest
            from the threshold, and names its image.
    """
    distance = np.abs(expected - threshold)
    # If a probability equals the threshold within the tolerance, the set may or may not include the label.
    differing = ((probabilities >= threshold) != (expected >= threshold)) & (distance > tolerances.absolute)
    wrong = np.flatnonzero(differing.any(axis=1))
    if wrong.size:
        worst = int(np.where(differing, distance, 0).max(axis=1).argmax())
        raise GateError(
            AGREEMENT,
            f"the file and PyTorch give different label sets for {wrong.size} of {len(expected)} images; worst at "
            f"image {worst}.",
        )
    figures = {"images": len(expected), "agreement": 1.0, "threshold": threshold}
    return PassedCheck(AGREEMENT, f"the same label sets for all of {len(expected)} images", figures)


def _largest_margin(margin: Array, images: Array) -> int:
    return int(images[margin[images].argmax()])


def check_calibration(
    answered: Answers, classes: Classes, temperature: float = 1.0, before: Array | None = None
) -> PassedCheck:
    """Measure the expected calibration error on the test set, and check that a temperature changed no logit or label.

    The calibration error is recorded, but has no limit: even if a temperature increases the error, the file passes.

    Args:
        answered: the file's answers to the test images.
        classes: the true class of each image, [n].
        temperature: the temperature in the file's graph; 1 if the graph has none.
        before: the logits of the same file without its temperature, [n, labels]; None if the file has no temperature.

    Raises:
        GateError: the temperature changed a logit, or the most probable label of an image. The message names the image.
    """
    logits, probabilities = answered["logits"], answered["probabilities"]
    error = calibration_error(probabilities, classes)
    figures = {"images": len(classes), "bins": BINS, "expected_calibration_error": error}
    summary = f"expected calibration error {error:.2%}"
    if before is None:
        return PassedCheck(CALIBRATION, summary, figures)
    if not np.array_equal(logits, before):  # the logits must be equal bit for bit; NaN counts as a change
        worst = worst_image(np.abs(logits - before))
        raise GateError(CALIBRATION, f"the temperature changes the file's logits, most at test image {worst}.")
    of_label = probabilities[np.arange(len(logits)), logits.argmax(axis=1)]
    if (changed := np.flatnonzero(of_label < probabilities.max(axis=1))).size:
        raise GateError(
            CALIBRATION,
            f"the file's probabilities and logits give different labels for {changed.size} of {len(logits):,} test "
            f"images, first for image {changed[0]}.",
        )
    error_before = calibration_error(softmax(before), classes)
    return PassedCheck(
        CALIBRATION,
        f"{summary} ({error_before:.2%} before scaling by temperature {temperature:.3f}); logits and labels unchanged",
        figures | {"before": error_before, "temperature": temperature},
    )
