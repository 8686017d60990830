"""ONNX models whose first axis is called ``batch`` although the rows of a batch depend on each other."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.kit import onnx_models

COLUMNS = 3
_FIRST_AXIS = np.array(0, np.int64)
_END = np.iinfo(np.int64).min


def _rows(
    nodes: list[onnx.NodeProto], metadata: Mapping[str, str] | None = None, **constants: object
) -> onnx.ModelProto:
    shape: tuple[int, onnx_models.Shape] = (TensorProto.FLOAT, ["batch", COLUMNS])
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    return onnx_models.model(nodes, {"x": shape}, {"y": shape}, arrays, metadata)


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
