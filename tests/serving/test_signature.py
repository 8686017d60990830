import pytest

from serving.signature import Signature, TensorSpec, UnsupportedModelError

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


def test_only_a_first_axis_that_is_free_everywhere_joins_requests() -> None:
    fixed, scalar = TensorSpec("f", "FP32", (1, 3)), TensorSpec("s", "FP32", ())
    assert Signature((X,), (Y,)).batched
    assert not Signature((X, fixed), (Y,)).batched
    assert not Signature((X,), (Y, fixed)).batched
    assert not Signature((X, scalar), (Y,)).batched
    assert not Signature((), (Y,)).batched
