"""The gate's measurements: differences between answers."""

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from hangtag.export.errors import GateError
from hangtag.export.gate import batching, label_checks, parity
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.serving.signature import Signature, TensorSpec
from tests.kit.onnx_file import Array


def test_the_worst_disagreement_has_pytorchs_largest_margin() -> None:
    expected = np.tile(np.array([[5.0, 0.0, 0.0]], np.float32), (1000, 1))
    expected[3] = [9.0, 0.0, 0.0]
    actual = expected.copy()
    classes = np.zeros(1000, np.uint8)
    actual[3] = actual[8] = [0.0, 9.0, 0.0]
    with pytest.raises(GateError, match=r"for 2 of 1,000 test .* \(99\.80% agree, but 100\.0% must agree\); .* 3\."):
        label_checks.check_labels(actual, expected, classes, TOLERANCES["fp32"])
    with pytest.raises(GateError, match=r"\(99\.80% agree, but 99\.9% must agree\)"):
        label_checks.check_labels(actual, expected, classes, TOLERANCES["fp16"])
    figures = label_checks.check_labels(actual, expected, classes, TOLERANCES["int8"]).figures
    assert (figures["differing"], figures["worst_image"], figures["accuracy"]) == (2, 3, 0.998)
    figures = label_checks.check_labels(actual[4:53], expected[4:53], classes[4:53], TOLERANCES["int8"]).figures
    assert figures["accuracy"] == 48 / 49  # one error is allowed even for few images
    with pytest.raises(GateError, match=r"for 2 of 49 test images .* Export it in fp32, or train it longer"):
        label_checks.check_labels(actual[:49], expected[:49], classes[:49], TOLERANCES["int8"])


def test_lost_accuracy_is_refused_even_where_most_answers_agree() -> None:
    expected = np.tile(np.array([[5.0, 0.0]], np.float32), (1000, 1))
    actual = expected.copy()
    expected[:8] = [[5.0 + place, 0.0] for place in range(8)]
    actual[:8] = actual[:8, ::-1]
    classes = np.zeros(1000, np.uint8)
    classes[7] = 1  # PyTorch misclassifies this image with high confidence, but the exported file is right
    with pytest.raises(GateError, match=r"99\.30% of the test set correctly, and PyTorch 99\.90%; .* keep 99\.8% .* 6"):
        label_checks.check_labels(actual, expected, classes, TOLERANCES["int8"])


def test_in_fp32_labels_and_accuracy_may_differ_where_two_labels_are_tied_alone() -> None:
    expected = np.array([[1.0, 1.00005]] * 3 + [[0.0, 5.0]] * 7, np.float32)
    actual = expected.copy()
    actual[:3] = actual[:3, ::-1]
    passed = label_checks.check_labels(actual, expected, np.ones(10, np.uint8), TOLERANCES["fp32"])
    figures = passed.figures
    assert (figures["level"], figures["differing"], figures["accuracy"]) == (3, 0, 0.7)
    assert figures["pytorch_accuracy"] == 1.0
    assert "3, each with two tied labels" in passed.summary


class ByTheBatch:
    """A runtime that answers each image with its mean plus the largest mean of the batch."""

    signature = Signature((TensorSpec("image", "UINT8", (None, 2, 2)),), (TensorSpec("logits", "FP32", (None, 2)),), {})

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        means = inputs["image"].mean(axis=(1, 2))
        scores = np.stack([means + means.max(), means], axis=1)
        return {"logits": scores, "probabilities": scores}


class TiedByTheBatch(ByTheBatch):
    """Answers with one of two almost equally probable paths of labels, depending on the size of the batch."""

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        size = len(inputs["image"])
        scores = np.full((size, 2), 0.5, np.float32)
        probability = scores[:, 0] + 5e-5 * (size % 2)
        return {"path": np.full((size, 1), size % 2), "path_probability": probability, "probabilities": scores}


def test_only_the_answers_of_tied_images_may_depend_on_their_batch() -> None:
    images = np.arange(80, dtype=np.uint8).reshape(20, 2, 2)
    runtimes: list[Any] = [ByTheBatch(), TiedByTheBatch()]
    with pytest.raises(GateError, match=r"^batching: logits of an image differ between .* worst at test image \d\."):
        batching.check(runtimes[0], images[:8], images, TOLERANCES["fp32"], 1.0)
    batching.check(runtimes[1], images[:8], images, TOLERANCES["fp32"], 0.0)


def test_in_int8_images_that_no_camera_takes_are_measured_and_not_required() -> None:
    images = {"test": np.full((4, 2, 2), 9, np.uint8), "black": np.zeros((4, 2, 2), np.uint8)}
    runtime: Any = ByTheBatch()
    right = {kind: runtime.run({"image": pixels}) for kind, pixels in images.items()}
    expected = right | {"black": {"logits": right["black"]["logits"] + 5}}
    with pytest.raises(GateError, match="batch 1 of black images: logits differ from PyTorch's by 5"):
        parity.check(runtime, images, expected, TOLERANCES["fp16"], 1.0)
    figures = parity.check(runtime, images, expected, TOLERANCES["int8"], 1.0).figures
    assert figures["max_logit_difference"]["black"]["64"] == 5


# Folding a temperature into a file may damage the file.

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]], np.float32)
CLASSES = np.array([0, 2], np.uint8)


def test_a_temperature_changes_no_logit_and_no_label() -> None:
    changed = LOGITS.copy()
    changed[1, 2] = np.nextafter(changed[1, 2], np.float32(9))
    with pytest.raises(GateError, match=r"^calibration: the temperature changes the file's logits, most at test image"):
        label_checks.check_calibration(
            {"logits": changed, "probabilities": softmax(changed / 2, axis=1)}, CLASSES, 2.0, LOGITS
        )
    probabilities = softmax(LOGITS / 2, axis=1)
    probabilities[1] = probabilities[1][::-1].copy() * [1, 0.1, 3]
    with pytest.raises(GateError, match=r"different labels for 1 of 2 test images, first for image 1"):
        label_checks.check_calibration({"logits": LOGITS, "probabilities": probabilities}, CLASSES, 2.0, LOGITS)
