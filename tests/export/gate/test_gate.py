"""A file is published only if it gives each image the same answer as PyTorch, alone and in any batch. Otherwise, the
error names the difference.

Most tests inject a fault into a copy of the same LSTM's graph, and then require that the export refuses the copy.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.kit import onnx_file, onnx_models, runs
from tests.kit.exported import Exported, Garments, fault, publish

pytestmark = pytest.mark.slow

Model = onnx.ModelProto
SIGNS = ((7, 11, 13, 17), (19, 23, 29, 31))
"""Sequences of pixel values. No garment image and no artificial image begins with one of them."""


def add_to_bias(amount: float, at: int | slice = slice(None)) -> Callable[[Model], None]:
    return partial(onnx_file.add, name="network.classifier.bias", amount=amount, at=at)


def turn_input_weights(model: Model) -> None:
    (node,) = [node for node in model.graph.node if node.op_type == "LSTM"]
    onnx_file.replace(model, node.input[1], onnx_file.initializer(model, node.input[1]) * np.float32(-30))


def take_logarithms(model: Model) -> None:
    (softmax,) = [node for node in model.graph.node if node.op_type == "Softmax"]
    softmax.op_type = "LogSoftmax"


def keep_first_row(model: Model) -> None:
    onnx_file.remake(model, "logits", "<bool[1] first = {1}> { logits = Compress <axis = 0> (before, first) }")


def declare_eleven_labels(model: Model) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 11


EFFECTS = {
    "class": "added = Mul(rows0, thousand) logits = Add(before, added)",
    "shift": "logits = Add(before, seen)",
    "fail": "place = Cast <to = 7> (seen) added = Gather(zero, place) logits = Add(before, added)",
}


def on_sign(effect: str, signs: int = 1) -> Callable[[Model], None]:
    """Make a fault that appears only for a batch that contains each of ``SIGNS[:signs]``.

    effect: "class" changes the label of images with a sign, "shift" adds 1 to all logits of the batch, "fail" makes the
        batch fail.
    """
    constants = {f"sign{place}": np.array(sign, np.uint8) for place, sign in enumerate(SIGNS[:signs])}
    find = [
        f"""equal{place} = Equal(corner, sign{place})
        equals{place} = Cast <to = 1> (equal{place})
        rows{place} = ReduceMin <keepdims = 0> (equals{place}, last)
        seen{place} = ReduceMax <keepdims = 0> (rows{place})"""
        for place in range(signs)
    ]
    text = f"""
        <int64[2] from = {{0, 0}}, int64[2] to = {{1, 4}}, int64[2] axes = {{1, 2}}, int64[1] last = {{-1}},
        float[1, 10] thousand = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 1000}}, float[1] zero = {{0}}> {{
            corner = Slice(image, from, to, axes)
            {" ".join(find)}
            seen = Min({", ".join(f"seen{place}" for place in range(signs))})
            {EFFECTS[effect]}
        }}"""

    def fault(model: onnx.ModelProto) -> None:
        onnx_file.remake(model, "logits", text, **constants)

    return fault


def marked(few: Garments, *places: int) -> Garments:
    """Returns the test images, with the signs written into the first pixels of the images at ``places``."""
    images = few.images.copy()
    for place, sign in zip(places, SIGNS, strict=False):
        images[place, 0, :4] = sign
    return replace(few, images=images)


def only(few: Garments, place: int) -> Garments:
    """A copy of the test images in which only the image at this place is not black."""
    images = np.zeros_like(few.images)
    images[place] = few.images[place]
    return replace(few, images=images)


@pytest.mark.parametrize(
    ("change", "test", "message"),
    [
        (add_to_bias(np.nan), lambda few: few, r"^parity: batch 1: logits differ .* by nan, .* test image 0\."),
        (add_to_bias(np.inf), lambda few: few, r"^parity: batch 1: logits differ .* by (nan|inf), .* test image 0\."),
        # The fault changes no answer to black images; image 5 is not black. The first batch with image 5 has 2 images.
        (turn_input_weights, lambda few: only(few, 5), r"^parity: batch 2: logits differ .* worst at test image 5\."),
        (take_logarithms, lambda few: few, r"^parity: batch 1: probabilities differ from those of the file's own"),
        (keep_first_row, lambda few: few, r"^parity: batch 2: logits have shape \[4, 10\], expected \[8, 10\]"),
        (declare_eleven_labels, lambda few: few, r"^structure: ONNX's checker refuses the file: .*11"),
        # The gate compares the logits of the first images only; the faults below appear in later images.
        (
            on_sign("class"),
            lambda few: marked(few, 270),
            r"^agreement: the file and PyTorch give different classes for 1 of 300 .*; worst at test image 270\.",
        ),
        (
            on_sign("shift"),
            lambda few: marked(few, 290),
            r"^batching: logits of an image differ between a batch of 1 and a batch of \d+ by 1, .* test image \d+\.",
        ),
        (
            on_sign("fail"),
            lambda few: marked(few, 270),
            r"^agreement: the file loads, but fails at batch 44 from image 256 on: .*[^.]\. Nothing",
        ),
        (
            on_sign("fail", signs=2),
            lambda few: marked(few, 291, 10),
            r"^batching: the file loads, but fails at batch \d+ with image \d+ and other images: ",
        ),
    ],
)
def test_a_file_that_differs_is_refused(
    change: Callable[[Model], None],
    test: Callable[[Garments], Garments],
    message: str,
    lstm: Exported,
    few: Garments,
    tmp_path: Path,
) -> None:
    reason = fault(lstm, tmp_path, test(few), change)
    assert re.search(message, reason), reason


def test_a_refusal_leaves_the_repository_as_it_was_and_the_file_without_a_fault_is_published(
    lstm: Exported, few: Garments, tmp_path: Path
) -> None:
    """A refused export uses up no version number."""
    expected = (
        r"parity: batch 1: logits differ from PyTorch's by 0\.05, more than the allowed 0\.0001; worst at test "
        r"image \d\. Nothing was published\."
    )
    assert re.fullmatch(expected, fault(lstm, tmp_path, few, add_to_bias(0.05)))
    for version in ("1", "2"):
        assert publish(lstm.run, tmp_path / "models", few, graph=lstm.graph).folder.name == version
        assert re.fullmatch(expected, fault(lstm, tmp_path, few, add_to_bias(0.05)))


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_network_that_answers_nan_is_refused(lstm: Exported, few: Garments, tmp_path: Path, broken: float) -> None:
    """The export fails although the file gives the same answers as the network."""
    weights = lstm.run.load("best.pt")["model"]
    weights["classifier.bias"].fill_(broken)
    run = runs.finished(tmp_path / "run", "lstm", weights)
    reason = fault(replace(lstm, run=run), tmp_path, few, add_to_bias(broken))
    assert "own outputs are not finite for 300 of 300 test images, first for image 0" in reason


def test_large_logits_are_no_fault(lstm: Exported, few: Garments, tmp_path: Path) -> None:
    """The exponential of a logit near 200 exceeds the range of FP32, but probabilities are still compared."""
    weights, graph = lstm.run.load("best.pt")["model"], lstm.graph
    weights["classifier.bias"][3] += 200
    add_to_bias(200, at=3)(graph)
    published = publish(runs.finished(tmp_path / "run", "lstm", weights), tmp_path / "models", few, graph=graph)
    assert json.loads(published.metadata["gate"])["parity"]["spread"] > 150


def classifier_of(labels: int, rows: int | str) -> Model:
    """Returns a classifier with this many labels. ``rows`` is the batch axis's name, or its fixed length."""
    return onnx_models.from_text(
        f"""(uint8[{rows}, 28, 28] image) => (float[{rows}, {labels}] logits, float[{rows}, {labels}] probabilities)
        <int64[2] flat = {{-1, 784}}> {{
            pixels = Cast <to = 1> (image)
            rows = Reshape(pixels, flat)
            logits = MatMul(rows, weights)
            probabilities = Softmax(logits)
        }}""",
        weights=np.ones((784, labels), np.float32),
    )


@pytest.mark.parametrize(("labels", "rows", "declared"), [(11, "batch", "[any, 11]"), (10, 1, "[1, 10]")])
def test_a_signature_that_breaks_the_contract_is_refused(
    labels: int, rows: int | str, declared: str, lstm: Exported, few: Garments, tmp_path: Path
) -> None:
    reason = fault(lstm, tmp_path, few, lambda graph: graph.CopyFrom(classifier_of(labels, rows)))
    assert reason.startswith("contract: ")
    assert f"logits: FP32 {declared}" in reason
    assert "expected image: UINT8 [any, 28, 28]; logits: FP32 [any, 10]" in reason


def test_a_short_test_set_is_compared_as_far_as_it_goes(lstm: Exported, few: Garments, tmp_path: Path) -> None:
    published = publish(lstm.run, tmp_path, few.first(10), graph=lstm.graph)
    assert json.loads(published.metadata["gate"])["batching"]["images"] == 10
