import pytest

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


@pytest.mark.parametrize("type_", ["tensor(bfloat16)", "tensor(complex64)", "seq(map(int64,tensor(float)))"])
def test_a_type_that_the_protocol_lacks_is_refused(type_: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'x' is a .*, which the Open Inference Protocol cannot carry"):
        TensorSpec.from_onnx("x", type_, [1])


def test_metadata_is_ours_alone() -> None:
    read = Signature.from_onnx([X], [Y], {"hangtag.task": "single_label", "other": "1"})
    assert read.metadata == {"task": "single_label"}
    assert read.task == "single_label"
    assert (read.labels, signature().task) == ((), None)


def test_labels_keep_their_order() -> None:
    assert signature(labels='["b", "a", "å"]').labels == ("b", "a", "å")


@pytest.mark.parametrize("labels", ["", "[", '["a"', "nonsense", '"abc"', "5", "null", '{"a": 1}', "[1, 2]", "[null]"])
def test_labels_that_are_no_list_of_strings_are_refused(labels: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"hangtag\.labels is not"):
        signature(labels=labels)


def test_a_tensor_is_found_by_its_name() -> None:
    read = signature()
    assert (read.input("x"), read.output("y")) == (X, Y)
    assert (read.input("y"), read.output("x")) == (None, None)


def test_a_spec_keeps_the_symbols_of_its_free_axes() -> None:
    assert X.symbols == ("batch", None, None)
    assert TensorSpec("x", "UINT8", (None, 28, 28)).symbols == (None, None, None)


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


@pytest.mark.parametrize("text", ["", "True", "1", "yes", "[true]"])
def test_batching_metadata_that_is_not_true_or_false_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"hangtag\.batched must be true or false, not "):
        signature(batched=text)


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


@pytest.mark.parametrize(
    "matrix",
    [
        "null",
        "[]",
        "[[0, 1]]",
        "[[0], [0]]",
        "[[0, 1, 1], [1, 0, 1]]",
        "[[0, 1], 5]",
        '{"a": 1}',
        "7",
        '[[0, 1], "ab"]',
    ],
)
def test_distances_of_another_shape_are_refused(matrix: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"hangtag\.label_distances is not a JSON matrix .* the 2 labels"):
        signature(labels='["a", "b"]', label_distances=matrix)


@pytest.mark.parametrize(
    "row",
    ["[0, 2]", "[0, -0.1]", "[0, NaN]", "[0.1, 1]", '[0, "1"]', "[0, true]", "[0, null]", "[0, Infinity]", "[0, []]"],
)
def test_distances_that_are_none_are_refused(row: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"hangtag\.label_distances must hold numbers from 0 to 1"):
        signature(labels='["a", "b"]', label_distances=f"[{row}, [1, 0]]")


def test_what_makes_a_set_is_read() -> None:
    assert (signature().threshold, signature().min_labels) == (0.5, 0)
    read = signature(threshold="0.25", min_labels="2")
    assert (read.threshold, read.min_labels) == (0.25, 2)


@pytest.mark.parametrize("threshold", ["1.5", "-1", "NaN", "true", '"0.5"', "[0.5]", "null"])
def test_a_threshold_that_is_no_probability_is_refused(threshold: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"hangtag\.threshold must be a number from 0 to 1, not "):
        signature(threshold=threshold)


@pytest.mark.parametrize("count", ["-1", "1.0", "true", '"1"', "null"])
def test_a_least_number_of_labels_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"hangtag\.min_labels must be a whole number from 0, not "):
        signature(min_labels=count)


@pytest.mark.parametrize("key", ["label_distances", "threshold", "min_labels"])
@pytest.mark.parametrize("value", ["", "{", "nonsense", "[" * 100_000])
def test_what_is_no_json_is_refused(key: str, value: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"hangtag\.{key} is not JSON: "):
        signature(**{key: value})
