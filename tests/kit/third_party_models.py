"""Models that must not be batched although their axes allow it; and models that fail or abort."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.kit.onnx_models import Shape, model

_BATCH: dict[str, tuple[int, Shape]] = {"x": (TensorProto.FLOAT, ["batch", 3])}
_ANSWER: dict[str, tuple[int, Shape]] = {"y": (TensorProto.FLOAT, ["batch", 3])}


def softmax_over_the_batch() -> onnx.ModelProto:
    """x FP32 [batch, 3] -> y FP32 [batch, 3]: each column shares 1 among the samples."""
    return model([helper.make_node("Softmax", ["x"], ["y"], axis=0)], _BATCH, _ANSWER)


def scaled_by_the_largest() -> onnx.ModelProto:
    """x divided by the largest value in the batch, as a quantizer does that derives its scale from the batch."""
    return model(
        [
            helper.make_node("Abs", ["x"], ["size"]),
            helper.make_node("ReduceMax", ["size"], ["largest"], keepdims=0),
            helper.make_node("Add", ["largest", "one"], ["scale"]),
            helper.make_node("Div", ["x", "scale"], ["y"]),
        ],
        _BATCH,
        _ANSWER,
        {"one": np.array(1, np.float32)},
    )


def backwards() -> onnx.ModelProto:
    """The samples in reverse order."""
    return model(
        [helper.make_node("Slice", ["x", "last", "before", "axis", "step"], ["y"])],
        _BATCH,
        _ANSWER,
        {
            "last": np.array([-1], np.int64),
            "before": np.array([-(2**31)], np.int64),
            "axis": np.array([0], np.int64),
            "step": np.array([-1], np.int64),
        },
    )


def one_row() -> onnx.ModelProto:
    """Declares one output row per sample, and returns one for all."""
    built = model(
        [
            helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1),
            helper.make_node("Identity", ["sum"], ["y"]),
        ],
        _BATCH,
        _ANSWER,
        {"axis": np.array([0], np.int64)},
    )
    (out,) = built.graph.output
    out.type.tensor_type.shape.dim[0].ClearField("dim_param")
    return built


def only_alone() -> onnx.ModelProto:
    """Fails on more than one sample: it reshapes to [1, 3]."""
    return model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        _BATCH,
        {"y": (TensorProto.FLOAT, [None, 3])},  # type: ignore[list-item]
        {"shape": np.array([1, 3], np.int64)},
    )


def at_most_32() -> onnx.ModelProto:
    """Looks up each sample's index in a table of 32, and fails on a larger batch."""
    return model(
        [
            helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
            helper.make_node("Squeeze", ["rows"], ["many"]),
            helper.make_node("Range", ["zero", "many", "one"], ["places"]),
            helper.make_node("Gather", ["table", "places"], ["added"]),
            helper.make_node("Add", ["x", "added"], ["y"]),
        ],
        _BATCH,
        _ANSWER,
        {"zero": np.array(0, np.int64), "one": np.array(1, np.int64), "table": np.zeros((32, 3), np.float32)},
    )


def declared_with_an_axis_too_many() -> onnx.ModelProto:
    """ONNX Runtime loads it with a warning, and reports no shape."""
    built = model([helper.make_node("Relu", ["x"], ["y"])], _BATCH, _ANSWER)
    built.graph.output[0].type.tensor_type.shape.dim.add()
    return built


def of_a_huge_picture() -> onnx.ModelProto:
    """One sample has 2**40 values, and the file a few bytes."""
    shape: Shape = ["batch", 2**20, 2**20]
    return model(
        [helper.make_node("Relu", ["x"], ["y"])], {"x": (TensorProto.FLOAT, shape)}, {"y": (TensorProto.FLOAT, shape)}
    )


def fatal() -> onnx.ModelProto:
    """Runs its LSTM on an empty batch for every input: ONNX Runtime aborts the process."""
    return model(
        [
            helper.make_node("Slice", ["x", "from", "from", "axis"], ["none"]),
            helper.make_node("LSTM", ["none", "w", "r"], ["y"], hidden_size=2),
        ],
        {"x": (TensorProto.FLOAT, ["length", "batch", 3])},
        {"y": (TensorProto.FLOAT, ["length", 1, "none", 2])},
        {
            "from": np.array([0], np.int64),
            "axis": np.array([1], np.int64),
            "w": np.ones((1, 8, 3), np.float32),
            "r": np.ones((1, 8, 2), np.float32),
        },
    )


def streamed() -> onnx.ModelProto:
    """Like silero-vad: x [batch, length] of whole frames of 8, a state [2, batch, 4], and a scalar rate INT64.

    The state has room for one stream, and the answer's gain is the rate.
    """
    return model(
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
