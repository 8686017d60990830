"""What an ONNX file says of its tensors, labels and sets, and what the axes of its graph say about batching."""

import pytest

from hangtag.serving.batchable import Axes, doubt, impossibility, obstacle
from hangtag.serving.signature import Signature, TensorSpec, UnsupportedModelError

X = TensorSpec.from_onnx("x", "tensor(uint8)", ["batch", 28, 28])
Y = TensorSpec.from_onnx("y", "tensor(float)", [None, 10])


def signature(**properties: str) -> Signature:
    return Signature.from_onnx([X], [Y], {f"hangtag.{key}": value for key, value in properties.items()})


def test_a_spec_reads_free_axes_and_writes_them_as_the_protocol_does() -> None:
    assert TensorSpec("x", "UINT8", (None, 28, 28)) == X
    assert X.wire_shape == (-1, 28, 28)
    assert str(Y) == "y: FP32 [any, 10]"
    assert TensorSpec.from_onnx("z", "tensor(string)", [-1]).shape == (None,)
    assert X.symbols == ("batch", None, None)
    assert TensorSpec("x", "UINT8", (None, 28, 28)).symbols == (None, None, None)


@pytest.mark.parametrize("type_", ["tensor(bfloat16)", "tensor(complex64)", "seq(map(int64,tensor(float)))"])
def test_a_type_that_the_protocol_lacks_is_refused(type_: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'x' is a .*, which the Open Inference Protocol cannot carry"):
        TensorSpec.from_onnx("x", type_, [1])


def test_metadata_is_ours_alone() -> None:
    read = Signature.from_onnx([X], [Y], {"hangtag.task": "single_label", "other": "1"})
    assert read.metadata == {"task": "single_label"}
    assert (read.task, read.labels, signature().task) == ("single_label", (), None)
    assert signature(labels='["b", "a", "å"]').labels == ("b", "a", "å")


def test_a_tensor_is_found_by_its_name() -> None:
    read = signature()
    assert (read.input("x"), read.output("y")) == (X, Y)
    assert (read.input("y"), read.output("x")) == (None, None)


def test_the_files_batching_property_overrides_its_axes() -> None:
    assert signature().batched
    assert not signature(batched="false").batched
    assert signature(batched="false").why_unbatched == "hangtag.batched in its file says so"
    rows = TensorSpec.from_onnx("x", "tensor(uint8)", ["rows", 2])
    assert not Signature.from_onnx([rows], [Y], {}).batched
    assert Signature.from_onnx([rows], [Y], {"hangtag.batched": "true"}).batched


def test_the_operators_setting_of_batching_overrides_the_files() -> None:
    metadata = {"hangtag.batched": "true"}
    assert not Signature.from_onnx([X], [Y], metadata, False).batched
    assert Signature.from_onnx([X], [Y], {"hangtag.batched": "false"}, True).batched
    assert Signature.from_onnx([X], [Y], metadata, False).why_unbatched == "the operator says so"


@pytest.mark.parametrize(("properties", "override"), [({"hangtag.batched": "true"}, None), ({}, True)])
@pytest.mark.parametrize(
    ("shape", "reason"), [([], "'s' has no axis"), ([2, "batch"], "the first axis of 's' is fixed to 2")]
)
def test_no_setting_batches_a_model_without_a_batch_axis(
    properties: dict[str, str], override: bool | None, shape: list[int | str], reason: str
) -> None:
    state = TensorSpec.from_onnx("s", "tensor(float)", shape)
    with pytest.raises(UnsupportedModelError, match=f"says that requests may be joined, but they cannot be: {reason}"):
        Signature.from_onnx([X, state], [Y], properties, override)


def test_distances_of_labels_are_read() -> None:
    read = signature(labels='["a", "b"]', label_distances="[[0, 0.5], [1, 0.0]]")
    assert read.label_distances == ((0.0, 0.5), (1.0, 0.0))
    assert signature(labels='["a", "b"]').label_distances is None


def test_what_makes_a_set_is_read() -> None:
    assert (signature().threshold, signature().min_labels) == (0.5, 0)
    read = signature(threshold="0.25", min_labels="2")
    assert (read.threshold, read.min_labels) == (0.25, 2)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("labels", ["", "[", '["a"', "nonsense", '"abc"', "5", "null", '{"a": 1}', "[1, 2]", "[null]"]),
        ("batched", ["", "True", "1", "yes", "[true]"]),
        ("label_distances", ["null", "[]", "[[0, 1]]", "[[0], [0]]", "[[0, 1, 1], [1, 0, 1]]", "[[0, 1], 5]"]),
        ("label_distances", ['{"a": 1}', "7", '[[0, 1], "ab"]', "", "{", "nonsense", DEEP]),
        ("label_distances", [f"[[{row}], [1, 0]]" for row in ("0, 2", "0, -0.1", "0, NaN", "0.1, 1", '0, "1"')]),
        ("label_distances", [f"[[{row}], [1, 0]]" for row in ("0, true", "0, null", "0, Infinity", "0, []")]),
        ("threshold", ["1.5", "-1", "NaN", "true", '"0.5"', "[0.5]", "null", "", "{", "nonsense", DEEP]),
        ("min_labels", ["-1", "1.0", "true", '"1"', "null", "", "{", "nonsense", DEEP]),
    ],
)
def test_metadata_that_cannot_be_read_is_refused_by_its_name(key: str, values: list[str]) -> None:
    for value in values:
        with pytest.raises(UnsupportedModelError, match=rf"hangtag\.{key} "):
            signature(**{"labels": '["a", "b"]', key: value})


@pytest.mark.parametrize(
    ("inputs", "outputs", "certain", "why"),
    [
        ({"image": ["batch", 28, 28]}, {"logits": ["batch", 10], "probabilities": ["batch", 10]}, 0, None),
        ({"x": ["batch_size", 3]}, {"y": ["batch_size"]}, 0, None),
        ({"x": ["N", 3, "H", "W"]}, {"y": ["N", 10, "H2", "W2"]}, 0, None),
        ({"x": [None, 4]}, {"y": [None]}, 0, None),  # skl2onnx, Keras
        ({"x": [-1, None]}, {"y": [-1, 1]}, 0, None),
        ({"x": ["unk__214", 2048]}, {"y": ["unk__215", 214]}, 0, None),  # tf2onnx
        ({"x": ["batch", 3]}, {"y": ["Addy_dim_0", 3]}, 0, None),  # torch.onnx, where a reshape hides the batch
        ({"x": ["batch", 3]}, {"y": [None, 3]}, 0, None),
        ({"x": ["s77", 3]}, {"y": ["s77", 3]}, 0, None),  # torch.onnx with dynamo
        ({"x": ["inputBatch", 3]}, {"y": ["outputBatch", 3]}, 0, None),
        ({"ids": ["batch", "length"]}, {"y": ["batch", "length", 8]}, 0, None),  # a text encoder
        ({"a": ["s0", 3], "b": ["s0", 4]}, {"y": ["s0", 1]}, 0, None),
        ({"a": ["batch", 3], "b": [None, 4]}, {"y": [None, 1]}, 0, None),
        ({}, {"y": ["batch", 10]}, 3, "it has no input"),
        ({"x": ["batch", 3], "rate": []}, {"y": ["batch"]}, 3, "'rate' has no axis"),
        ({"x": ["batch", 3]}, {"total": []}, 3, "'total' has no axis"),
        ({"x": [4]}, {"y": ["batch", 4]}, 3, "the first axis of 'x' is fixed to 4"),
        ({"x": ["batch", 3], "state": [2, "batch", 8]}, {"y": ["batch"]}, 3, "the first axis of 'state' is fixed to 2"),
        ({"x": ["batch", 3]}, {"state": [2, "batch", 8]}, 3, "the first axis of 'state' is fixed to 2"),
        ({"x": ["n"]}, {"y": ["m"]}, 2, "first axes have different names: m, n"),
        ({"x": ["n"], "z": ["m"]}, {"y": ["n"]}, 2, "first axes have different names: m, n"),
        ({"x": ["batch", 3]}, {"y": ["boxes", 4]}, 2, "first axes have different names: batch, boxes"),
        ({"x": ["n", "n"]}, {"y": ["n"]}, 2, "'x' has the batch in two axes"),
        ({"x": ["s0", "s0"]}, {"y": ["s0"]}, 2, "'x' has the batch in two axes"),
        ({"x": ["n", 3]}, {"distances": ["n", "n"]}, 2, "'distances' has the batch in two axes"),
        ({"x": ["n", 3]}, {"y": ["n"]}, 1, "the first axis of 'x' is called 'n', which need not be the batch"),
        ({"x": ["length"]}, {"y": [None]}, 1, "the first axis of 'x' is called 'length', which need not be the batch"),
        ({"x": [None]}, {"y": ["boxes"]}, 1, "the first axis of 'y' is called 'boxes', which need not be the batch"),
        ({"x": ["s0", "batch", 3]}, {"y": ["s0", "batch", 3]}, 1, "'batch' is not the first axis of 'x'"),
        ({"a": ["s0"], "b": ["s1"]}, {"y": [None]}, 1, "the first axes of its inputs may differ in size: s0, s1"),
    ],
)
def test_what_the_axes_say_about_batching(
    inputs: dict[str, Axes], outputs: dict[str, Axes], certain: int, why: str | None
) -> None:
    """certain: 3: no setting can batch it, 2: it is not worth a proof, 1: it needs a proof, 0: it may be batched."""
    answers = [question(inputs, outputs) for question in (impossibility, obstacle, doubt)]
    assert answers == [None] * (3 - certain) + [why] * certain
