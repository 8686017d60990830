"""What the axes of a graph say about batching, before anything is run."""

import pytest

from serving.batchable import Axes, obstacle


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"image": ["batch", 28, 28]}, {"logits": ["batch", 10], "probabilities": ["batch", 10]}),
        ({"a": ["n"], "b": ["n", "length"]}, {"y": ["n", "length"]}),
        ({"a": [None, 3]}, {"y": [None]}),
        ({"a": ["batch", 3]}, {"y": [None, 3]}),  # the converter lost the name on the way
        ({"a": ["unk__1", 3]}, {"y": ["unk__2", 3]}),  # names that tf2onnx makes up tell nothing
        ({"a": [-1, 3]}, {"y": [-1]}),
    ],
)
def test_a_first_axis_that_is_free_everywhere_may_be_the_batch(
    inputs: dict[str, Axes], outputs: dict[str, Axes]
) -> None:
    assert obstacle(inputs, outputs) is None


@pytest.mark.parametrize(
    ("inputs", "outputs", "why"),
    [
        ({"x": [4]}, {"y": [4]}, "the first axis of 'x' is fixed to 4"),
        ({"x": ["n", 4]}, {"y": [1, 4]}, "the first axis of 'y' is fixed to 1"),
        ({"x": ["n"]}, {"y": ["n"], "total": []}, "'total' has no axis"),
        ({"x": ["n"]}, {"y": ["m"]}, "first axes have different names: m, n"),
        ({"x": ["n"], "z": ["m"]}, {"y": ["n"]}, "first axes have different names: m, n"),
        ({"x": ["n", "n"]}, {"y": ["n"]}, "'x' has the batch in two axes"),
        ({"x": ["n", 3]}, {"distances": ["n", "n"]}, "'distances' has the batch in two axes"),
        ({}, {"y": ["n"]}, "it has no input"),
    ],
)
def test_what_stands_in_the_way_is_told(inputs: dict[str, Axes], outputs: dict[str, Axes], why: str) -> None:
    assert obstacle(inputs, outputs) == why
