"""What the axes of a graph say about batching, before anything is run."""

import pytest

from hangtag.serving.batchable import Axes, doubt, impossibility, obstacle


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"image": ["batch", 28, 28]}, {"logits": ["batch", 10], "probabilities": ["batch", 10]}),
        ({"x": ["batch_size", 3]}, {"y": ["batch_size"]}),
        ({"x": ["N", 3, "H", "W"]}, {"y": ["N", 10, "H2", "W2"]}),
        ({"x": [None, 4]}, {"y": [None]}),  # skl2onnx, Keras
        ({"x": [-1, None]}, {"y": [-1, 1]}),
        ({"x": ["unk__214", 2048]}, {"y": ["unk__215", 214]}),  # tf2onnx
        ({"x": ["batch", 3]}, {"y": ["Addy_dim_0", 3]}),  # torch.onnx, where a reshape hides the batch
        ({"x": ["batch", 3]}, {"y": [None, 3]}),
        ({"x": ["s77", 3]}, {"y": ["s77", 3]}),  # torch.onnx with dynamo
        ({"x": ["inputBatch", 3]}, {"y": ["outputBatch", 3]}),
        ({"ids": ["batch", "length"], "mask": ["batch", "length"]}, {"y": ["batch", "length", 8]}),  # a text encoder
        ({"a": ["s0", 3], "b": ["s0", 4]}, {"y": ["s0", 1]}),
        ({"a": ["batch", 3], "b": [None, 4]}, {"y": [None, 1]}),
    ],
)
def test_a_first_axis_that_is_free_everywhere_may_be_the_batch(
    inputs: dict[str, Axes], outputs: dict[str, Axes]
) -> None:
    assert (impossibility(inputs, outputs), obstacle(inputs, outputs), doubt(inputs, outputs)) == (None, None, None)


@pytest.mark.parametrize(
    ("inputs", "outputs", "why"),
    [
        ({}, {"y": ["batch", 10]}, "it has no input"),
        ({"x": ["batch", 3], "rate": []}, {"y": ["batch"]}, "'rate' has no axis"),
        ({"x": ["batch", 3]}, {"total": []}, "'total' has no axis"),
        ({"x": [4]}, {"y": ["batch", 4]}, "the first axis of 'x' is fixed to 4"),
        ({"x": ["batch", 3], "state": [2, "batch", 8]}, {"y": ["batch"]}, "the first axis of 'state' is fixed to 2"),
        ({"x": ["batch", 3]}, {"state": [2, "batch", 8]}, "the first axis of 'state' is fixed to 2"),
    ],
)
def test_axes_that_no_setting_can_batch(inputs: dict[str, Axes], outputs: dict[str, Axes], why: str) -> None:
    assert [question(inputs, outputs) for question in (impossibility, obstacle, doubt)] == [why] * 3


@pytest.mark.parametrize(
    ("inputs", "outputs", "why"),
    [
        ({"x": ["n"]}, {"y": ["m"]}, "first axes have different names: m, n"),
        ({"x": ["n"], "z": ["m"]}, {"y": ["n"]}, "first axes have different names: m, n"),
        ({"x": ["batch", 3]}, {"y": ["boxes", 4]}, "first axes have different names: batch, boxes"),
        ({"x": ["n", "n"]}, {"y": ["n"]}, "'x' has the batch in two axes"),
        ({"x": ["s0", "s0"]}, {"y": ["s0"]}, "'x' has the batch in two axes"),
        ({"x": ["n", 3]}, {"distances": ["n", "n"]}, "'distances' has the batch in two axes"),
    ],
)
def test_what_is_not_worth_a_proof(inputs: dict[str, Axes], outputs: dict[str, Axes], why: str) -> None:
    assert impossibility(inputs, outputs) is None
    assert (obstacle(inputs, outputs), doubt(inputs, outputs)) == (why, why)


@pytest.mark.parametrize(
    ("inputs", "outputs", "why"),
    [
        ({"x": ["n", 3]}, {"y": ["n"]}, "the first axis of 'x' is called 'n', which need not be the batch"),
        ({"x": ["length"]}, {"y": [None]}, "the first axis of 'x' is called 'length', which need not be the batch"),
        ({"x": [None]}, {"y": ["boxes"]}, "the first axis of 'y' is called 'boxes', which need not be the batch"),
        ({"x": ["s0", "batch", 3]}, {"y": ["s0", "batch", 3]}, "'batch' is not the first axis of 'x'"),
        ({"a": ["s0"], "b": ["s1"]}, {"y": [None]}, "the first axes of its inputs may differ in size: s0, s1"),
    ],
)
def test_what_needs_a_proof(inputs: dict[str, Axes], outputs: dict[str, Axes], why: str) -> None:
    assert (impossibility(inputs, outputs), obstacle(inputs, outputs)) == (None, None)
    assert doubt(inputs, outputs) == why
