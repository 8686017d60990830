"""ONNX models with a dynamic first axis that must not be batched: their rows depend on each other, or batches fail."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx

from tests.kit.onnx_models import from_text

COLUMNS = 3
_END = np.iinfo(np.int64).min


def _rows(
    text: str, metadata: Mapping[str, str] | None = None, **constants: npt.NDArray[np.generic]
) -> onnx.ModelProto:
    """A model with x FP32 [batch, 3] -> y FP32 [batch, 3], built from this text."""
    return from_text(f"(float[batch, {COLUMNS}] x) => (float[batch, {COLUMNS}] y) {text}", metadata, **constants)


def softmax(metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """Softmax along the batch axis."""
    return _rows("{ y = Softmax <axis = 0> (x) }", metadata)


def faint_softmax() -> onnx.ModelProto:
    """Softmax along the batch axis, with values of at most 0.0001."""
    return _rows("<float small = {0.0001}> { p = Softmax <axis = 0> (x) y = Mul(p, small) }")


def cumulative_sum() -> onnx.ModelProto:
    return _rows("<int64 axis = {0}> { y = CumSum(x, axis) }")


def reversal() -> onnx.ModelProto:
    constants = "<int64[1] last = {-1}, int64[1] axes = {0}, int64[1] step = {-1}>"
    return _rows(f"{constants} {{ y = Slice(x, last, end, axes, step) }}", end=np.array([_END]))


def centring() -> onnx.ModelProto:
    """The rows minus their mean."""
    return _rows("<int64[1] axes = {0}> { mean = ReduceMean(x, axes) y = Sub(x, mean) }")


def training_mode() -> onnx.ModelProto:
    """Batch normalisation by the statistics of the batch, as in a network that was exported in training mode.

    ONNX Runtime updates the mean and the variance in each run, so every run gives another answer.
    """
    ones, zeros = np.ones(COLUMNS, np.float32), np.zeros(COLUMNS, np.float32)
    return _rows(
        "{ y, next_mean, next_var = BatchNormalization <training_mode = 1> (x, scale, bias, mean, var) }",
        scale=ones, bias=zeros, mean=zeros, var=ones,
    )  # fmt: skip


def noise() -> onnx.ModelProto:
    """The rows plus random numbers."""
    return _rows("{ noise = RandomNormalLike(x) y = Add(x, noise) }")


def large_neighbour() -> onnx.ModelProto:
    """Softmax along the batch axis in two of three columns. The first column has much larger values."""
    return _rows(
        """<float[3] first = {1920, 0, 0}, float[3] others = {0, 1, 1}> {
            p = Softmax <axis = 0> (x)
            scores = Mul(p, others)
            share = Sigmoid(x)
            pixels = Mul(share, first)
            y = Add(pixels, scores)
        }"""
    )


def distant_row() -> onnx.ModelProto:
    """Adds the eighth row of the batch, if there is one, to each row."""
    return _rows(
        """<int64[1] eighth = {7}, int64[1] ninth = {8}, int64[1] axes = {0}> {
            row = Slice(x, eighth, ninth, axes)
            added = ReduceSum(row, axes)
            y = Add(x, added)
        }"""
    )


def dynamic_quantization() -> onnx.ModelProto:
    """The rows, quantized in steps that depend on the range of the whole batch."""
    return _rows("{ steps, scale, zero = DynamicQuantizeLinear(x) y = DequantizeLinear(steps, scale, zero) }")


def reversed_texts() -> onnx.ModelProto:
    return from_text(
        """(string[batch] x) => (string[batch] y)
        <int64[1] last = {-1}, int64[1] axes = {0}, int64[1] step = {-1}> { y = Slice(x, last, end, axes, step) }""",
        end=np.array([_END]),
    )


MODELS: tuple[Callable[[], onnx.ModelProto], ...] = (
    softmax,
    faint_softmax,
    cumulative_sum,
    reversal,
    centring,
    large_neighbour,
    dynamic_quantization,
)
"""Models with x FP32 [batch, 3] -> y FP32 [batch, 3]."""


def scaled_by_the_largest() -> onnx.ModelProto:
    """x divided by the largest value in the batch, like a quantizer that derives its scale from the batch."""
    return _rows(
        """<float one = {1}> {
            size = Abs(x)
            largest = ReduceMax <keepdims = 0> (size)
            scale = Add(largest, one)
            y = Div(x, scale)
        }"""
    )


def one_row() -> onnx.ModelProto:
    """A model that declares one output row for each sample, and returns one row for the whole batch."""
    built = _rows("<int64[1] axis = {0}> { sum = ReduceSum <keepdims = 1> (x, axis) y = Identity(sum) }")
    built.graph.output[0].type.tensor_type.shape.dim[0].ClearField("dim_param")
    return built


def only_alone() -> onnx.ModelProto:
    """A model that fails on more than one sample, because it reshapes to [1, 3]."""
    return from_text("(float[batch, 3] x) => (float[?, 3] y) <int64[2] shape = {1, 3}> { y = Reshape(x, shape) }")


def at_most_32() -> onnx.ModelProto:
    """A model that adds row i of a table to sample i of a batch. The table has 32 rows, so a larger batch fails."""
    return _rows(
        """<int64 zero = {0}, int64 one = {1}> {
            rows = Shape <start = 0, end = 1> (x)
            many = Squeeze(rows)
            places = Range(zero, many, one)
            added = Gather(table, places)
            y = Add(x, added)
        }""",
        table=np.zeros((32, COLUMNS), np.float32),
    )


def declared_with_an_axis_too_many() -> onnx.ModelProto:
    """A model whose output declares one axis too many. ONNX Runtime loads the model with a warning and no shape."""
    built = _rows("{ y = Relu(x) }")
    built.graph.output[0].type.tensor_type.shape.dim.add()
    return built


def aborting() -> onnx.ModelProto:
    """An LSTM on an empty batch, for which ONNX Runtime aborts the process."""
    return from_text(
        """(float[length, batch, 3] x) => (float[length, 1, none, 2] y) <int64[1] from = {0}, int64[1] axis = {1}> {
            none = Slice(x, from, from, axis)
            y = LSTM <hidden_size = 2> (none, w, r)
        }""",
        w=np.ones((1, 8, 3), np.float32),
        r=np.ones((1, 8, 2), np.float32),
    )


def of_a_huge_picture() -> onnx.ModelProto:
    """A model of a few bytes whose samples have 2**40 values each."""
    shape = f"float[batch, {2**20}, {2**20}]"
    return from_text(f"({shape} x) => ({shape} y) {{ y = Relu(x) }}")
