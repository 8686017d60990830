import pytest

from serving.batchable import why_never, why_not
from serving.signature import TensorSpec

Shape = list[int | str | None]


def reason(inputs: list[Shape], outputs: list[Shape]) -> str | None:
    return why_not(
        [TensorSpec.from_onnx(f"x{place}", "tensor(float)", shape) for place, shape in enumerate(inputs)],
        [TensorSpec.from_onnx(f"y{place}", "tensor(float)", shape) for place, shape in enumerate(outputs)],
    )


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([["batch", 28, 28]], [["batch", 10]]),
        ([["batch_size", 3]], [["batch_size"]]),
        ([["N", 3, "H", "W"]], [["N", 10, "H2", "W2"]]),
        ([[None, 4]], [[None]]),  # skl2onnx, Keras
        ([[None, None]], [[None, 1]]),
        ([["unk__214", 2048]], [["unk__215", 214]]),  # tf2onnx
        ([["batch", 3]], [["Addy_dim_0", 3]]),  # torch.onnx, where a reshape hides the batch
        ([["s77", 3]], [["s77", 3]]),  # torch.onnx with dynamo
        ([["inputBatch", 3]], [["outputBatch", 3]]),
        ([["batch", "length"], ["batch", "length"]], [["batch", "length", 8]]),  # a text encoder
        ([["s0", 3], ["s0", 4]], [["s0", 1]]),
        ([["batch", 3], [None, 4]], [[None, 1]]),
    ],
)
def test_what_speaks_for_a_batch(inputs: list[Shape], outputs: list[Shape]) -> None:
    assert reason(inputs, outputs) is None


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ([], [["batch", 10]], "it has no inputs"),
        ([["batch", 3], []], [["batch", 3]], "'x1' is a scalar"),
        ([["batch", 3]], [[]], "'y0' is a scalar"),
        ([[4]], [["batch", 4]], "the first axis of x0: FP32 [4] is fixed"),
        ([["batch", 3], [2, "batch", 8]], [["batch", 3]], "the first axis of x1: FP32 [2, any, 8] is fixed"),
        ([["batch", 3]], [["batch", 3], [2, "batch", 8]], "the first axis of y1: FP32 [2, any, 8] is fixed"),
        ([["length", 3]], [["length", 3]], "the first axis of 'x0' is called 'length', not the batch"),
        ([["batch", 3], ["rows", 3]], [["batch"]], "the first axis of 'x1' is called 'rows', not the batch"),
        ([["n"]], [["n"]], "the first axis of 'x0' is called 'n', not the batch"),
        ([["batch", 3]], [["boxes", 4]], "the first axis of 'y0' is called 'boxes', not the batch"),
        (
            [["unk__1", 3], ["unk__2", 3]],
            [["unk__3", 1]],
            "the first axes of its inputs may differ in size (x0 unk__1, x1 unk__2)",
        ),
        ([["s0", "batch", 3]], [["s0", "batch", 3]], "'batch' is not the first axis of 'x0'"),
        ([["s0", "s0"]], [["s0"]], "'s0' is not the first axis of 'x0'"),
        ([["batch", 3]], [["batch", "batch"]], "'batch' is not the first axis of 'y0'"),
    ],
)
def test_what_speaks_against_it(inputs: list[Shape], outputs: list[Shape], expected: str) -> None:
    assert reason(inputs, outputs) == expected


def test_what_is_only_doubtful_is_not_impossible() -> None:
    rows = TensorSpec.from_onnx("x", "tensor(float)", ["rows", 2])
    assert why_not([rows], [rows]) is not None
    assert why_never([rows], [rows]) is None
