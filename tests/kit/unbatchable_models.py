"""ONNX models that must not be batched although their first axis is free: their rows depend on each other, or fail."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.kit import onnx_models

COLUMNS = 3
_ROWS: onnx_models.Shape = ["batch", COLUMNS]
_FIRST_AXIS = np.array(0, np.int64)
_END = np.iinfo(np.int64).min


def _rows(
    nodes: list[onnx.NodeProto], metadata: Mapping[str, str] | None = None, **constants: object
) -> onnx.ModelProto:
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    return onnx_models.mapped(nodes, _ROWS, arrays, metadata)


def softmax(metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """Softmax over the rows."""
    return _rows([helper.make_node("Softmax", ["x"], ["y"], axis=0)], metadata)


def faint_softmax() -> onnx.ModelProto:
    """Softmax over the rows, in values of at most 0.0001."""
    nodes = [helper.make_node("Softmax", ["x"], ["p"], axis=0), helper.make_node("Mul", ["p", "small"], ["y"])]
    return _rows(nodes, small=np.float32(1e-4))


def cumulative_sum() -> onnx.ModelProto:
    """The sum of each row and those before it."""
    return _rows([helper.make_node("CumSum", ["x", "axis"], ["y"])], axis=_FIRST_AXIS)


def reversal() -> onnx.ModelProto:
    """The rows, the last one first."""
    nodes = [helper.make_node("Slice", ["x", "last", "end", "axes", "step"], ["y"])]
    return _rows(nodes, last=np.array([-1]), end=np.array([_END]), axes=_FIRST_AXIS[np.newaxis], step=np.array([-1]))


def centring() -> onnx.ModelProto:
    """The rows without their mean."""
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["mean"]), helper.make_node("Sub", ["x", "mean"], ["y"])]
    return _rows(nodes, axes=_FIRST_AXIS[np.newaxis])


def training_mode() -> onnx.ModelProto:
    """Batch normalisation by the statistics of the batch, as an export in training mode has it.

    ONNX Runtime carries the mean and the variance from run to run, so that no two runs give the same answer.
    """
    ones, zeros = np.ones(COLUMNS, np.float32), np.zeros(COLUMNS, np.float32)
    node = helper.make_node(
        "BatchNormalization", ["x", "scale", "bias", "mean", "var"], ["y", "next_mean", "next_var"], training_mode=1
    )
    return _rows([node], scale=ones, bias=zeros, mean=zeros, var=ones)


def noise() -> onnx.ModelProto:
    """The rows, with random numbers added."""
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["noise"]), helper.make_node("Add", ["x", "noise"], ["y"])]
    return _rows(nodes)


def ranking() -> onnx.ModelProto:
    """The columns, each sorted."""
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("TopK", ["x", "rows"], ["y", "places"], axis=0),
    ]
    return _rows(nodes)


def large_neighbour() -> onnx.ModelProto:
    """Softmax over the rows in two columns, next to one of values in the thousands that depend on their row alone."""
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"], axis=0),
        helper.make_node("Mul", ["p", "others"], ["scores"]),
        helper.make_node("Sigmoid", ["x"], ["share"]),
        helper.make_node("Mul", ["share", "first"], ["pixels"]),
        helper.make_node("Add", ["pixels", "scores"], ["y"]),
    ]
    return _rows(nodes, first=np.array([1920, 0, 0], np.float32), others=np.array([0, 1, 1], np.float32))


def distant_row() -> onnx.ModelProto:
    """The rows, with the eighth added to each where a batch has one."""
    nodes = [
        helper.make_node("Slice", ["x", "eighth", "ninth", "axes"], ["row"]),
        helper.make_node("ReduceSum", ["row", "axes"], ["added"]),
        helper.make_node("Add", ["x", "added"], ["y"]),
    ]
    return _rows(nodes, eighth=np.array([7]), ninth=np.array([8]), axes=_FIRST_AXIS[np.newaxis])


def dynamic_quantization() -> onnx.ModelProto:
    """The rows in steps of which the range of the whole batch decides."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["steps", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["y"]),
    ]
    return _rows(nodes)


def reversed_texts() -> onnx.ModelProto:
    """Texts [batch], the last one first."""
    return onnx_models.model(
        [helper.make_node("Slice", ["x", "last", "end", "axes", "step"], ["y"])],
        {"x": (TensorProto.STRING, ["batch"])},
        {"y": (TensorProto.STRING, ["batch"])},
        {"last": np.array([-1]), "end": np.array([_END]), "axes": _FIRST_AXIS[np.newaxis], "step": np.array([-1])},
    )


MODELS: tuple[Callable[[], onnx.ModelProto], ...] = (
    softmax,
    faint_softmax,
    cumulative_sum,
    reversal,
    centring,
    ranking,
    large_neighbour,
    dynamic_quantization,
)
"""x FP32 [batch, 3] -> y FP32 [batch, 3]"""


def scaled_by_the_largest() -> onnx.ModelProto:
    """x divided by the largest value in the batch, as a quantizer does that derives its scale from the batch."""
    return onnx_models.mapped(
        [
            helper.make_node("Abs", ["x"], ["size"]),
            helper.make_node("ReduceMax", ["size"], ["largest"], keepdims=0),
            helper.make_node("Add", ["largest", "one"], ["scale"]),
            helper.make_node("Div", ["x", "scale"], ["y"]),
        ],
        _ROWS,
        {"one": np.array(1, np.float32)},
    )


def one_row() -> onnx.ModelProto:
    """Declares one output row per sample, and returns one for all."""
    built = onnx_models.mapped(
        [
            helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1),
            helper.make_node("Identity", ["sum"], ["y"]),
        ],
        _ROWS,
        {"axis": np.array([0], np.int64)},
    )
    (out,) = built.graph.output
    out.type.tensor_type.shape.dim[0].ClearField("dim_param")
    return built


def only_alone() -> onnx.ModelProto:
    """Fails on more than one sample: it reshapes to [1, 3]."""
    return onnx_models.model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": (TensorProto.FLOAT, _ROWS)},
        {"y": (TensorProto.FLOAT, [None, 3])},  # type: ignore[list-item]
        {"shape": np.array([1, 3], np.int64)},
    )


def at_most_32() -> onnx.ModelProto:
    """Looks up each sample's index in a table of 32, and fails on a larger batch."""
    return onnx_models.mapped(
        [
            helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
            helper.make_node("Squeeze", ["rows"], ["many"]),
            helper.make_node("Range", ["zero", "many", "one"], ["places"]),
            helper.make_node("Gather", ["table", "places"], ["added"]),
            helper.make_node("Add", ["x", "added"], ["y"]),
        ],
        _ROWS,
        {"zero": np.array(0, np.int64), "one": np.array(1, np.int64), "table": np.zeros((32, 3), np.float32)},
    )


def declared_with_an_axis_too_many() -> onnx.ModelProto:
    """ONNX Runtime loads it with a warning, and reports no shape."""
    built = onnx_models.mapped([helper.make_node("Relu", ["x"], ["y"])], _ROWS)
    built.graph.output[0].type.tensor_type.shape.dim.add()
    return built


def of_a_huge_picture() -> onnx.ModelProto:
    """One sample has 2**40 values, and the file a few bytes."""
    shape: onnx_models.Shape = ["batch", 2**20, 2**20]
    return onnx_models.mapped([helper.make_node("Relu", ["x"], ["y"])], shape)


def streamed() -> onnx.ModelProto:
    """Like silero-vad: x [batch, length] of whole frames of 8, a state [2, batch, 4], and a scalar rate INT64.

    The state has room for one stream, and the answer's gain is the rate.
    """
    return onnx_models.model(
        [
            helper.make_node("Reshape", ["x", "frames"], ["framed"]),
            helper.make_node("ReduceMean", ["framed", "axis"], ["mean"], keepdims=1),
            helper.make_node("Cast", ["rate"], ["gain"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["mean", "gain"], ["y"]),
            helper.make_node("Squeeze", ["state", "axis"], ["next"]),
        ],
        {
            "x": (TensorProto.FLOAT, ["?", "??"]),
            "state": (TensorProto.FLOAT, [2, "???", 4]),
            "rate": (TensorProto.INT64, []),
        },
        {"y": (TensorProto.FLOAT, ["frames", 1]), "next": (TensorProto.FLOAT, [2, 4])},
        {"frames": np.array([-1, 8], np.int64), "axis": np.array([1], np.int64)},
    )
