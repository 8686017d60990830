"""Build small real ONNX models node by node, and put them into a model repository."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
LABELS = tuple(f"label {index}" for index in range(10))
TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
Shape = Sequence[int | str]


def model(
    nodes: Iterable[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Shape]],
    outputs: Mapping[str, tuple[int, Shape]],
    constants: Mapping[str, npt.NDArray[np.generic]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Build a model. inputs and outputs: name -> element type and shape, with a symbol for a free axis."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, type_, shape) for name, (type_, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, type_, shape) for name, (type_, shape) in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    helper.set_model_props(built, dict(metadata or {}))
    return built


def mapped(
    nodes: Iterable[onnx.NodeProto],
    shape: Shape,
    constants: Mapping[str, npt.NDArray[np.generic]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Build a model from x FP32 to y FP32, both of this shape."""
    return model(nodes, {"x": (TensorProto.FLOAT, shape)}, {"y": (TensorProto.FLOAT, shape)}, constants, metadata)


def classifier(*, labels: str | None = None) -> onnx.ModelProto:
    """An affine classifier of pictures: image UINT8 [batch, 28, 28] -> logits and probabilities FP32 [batch, 10]."""
    return model(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["pixels", "flat"], ["rows"]),
            helper.make_node("Gemm", ["rows", "weights", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        {"image": (TensorProto.UINT8, ["batch", 28, 28])},
        {"logits": (TensorProto.FLOAT, ["batch", 10]), "probabilities": (TensorProto.FLOAT, ["batch", 10])},
        {"flat": np.array([-1, 784], np.int64), "weights": weights(), "bias": np.arange(10, dtype=np.float32) / 10},
        {
            "hangtag.task": "single_label",
            "hangtag.labels": json.dumps(LABELS) if labels is None else labels,
            "not-ours": "stays out",
        },
    )


def weights() -> npt.NDArray[np.float32]:
    """The classifier's weights [784, 10]."""
    return np.random.default_rng(0).normal(0, 1e-3, (784, 10)).astype(np.float32)


def logits_of(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The classifier's expected logits for images [batch, 28, 28], computed without ONNX Runtime."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    return (flat @ weights() + np.arange(10) / 10).astype(np.float32)


def two_inputs() -> onnx.ModelProto:
    """a FP32 [batch, 3] and b INT64 [batch, 3] -> sum FP32 and double INT64, both [batch, 3]."""
    return model(
        [
            helper.make_node("Cast", ["b"], ["b_float"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["a", "b_float"], ["sum"]),
            helper.make_node("Add", ["b", "b"], ["double"]),
        ],
        {"a": (TensorProto.FLOAT, ["batch", 3]), "b": (TensorProto.INT64, ["batch", 3])},
        {"sum": (TensorProto.FLOAT, ["batch", 3]), "double": (TensorProto.INT64, ["batch", 3])},
    )


def text() -> onnx.ModelProto:
    """text BYTES [batch] -> shouted BYTES [batch]: the same with an exclamation mark."""
    return model(
        [helper.make_node("StringConcat", ["text", "mark"], ["shouted"])],
        {"text": (TensorProto.STRING, ["batch"])},
        {"shouted": (TensorProto.STRING, ["batch"])},
        {"mark": np.array(["!"], dtype=np.object_)},
    )


def with_external_weights(place: str, datatype: TensorProto.DataType, size: int) -> onnx.ModelProto:
    """x [batch, size] -> y: x plus weights of the same datatype, the first bytes of the file at ``place``."""
    built = model(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        {"x": (datatype, ["batch", size])},
        {"y": (datatype, ["batch", size])},
    )
    weights = built.graph.initializer.add(name="w", data_type=datatype, dims=[size])
    weights.data_location = TensorProto.EXTERNAL
    length = size * helper.tensor_dtype_to_np_dtype(datatype).itemsize
    for key, value in (("location", place), ("offset", "0"), ("length", str(length))):
        weights.external_data.add(key=key, value=value)
    return built


def every_type(shape: Shape = ("batch", 2), *, strings: bool = True) -> onnx.ModelProto:
    """One input of every datatype, in_<datatype>, that comes back as out_<datatype>."""
    types = {name: type_ for name, type_ in TYPES.items() if strings or name != "BYTES"}
    return model(
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in types],
        {f"in_{name}": (type_, shape) for name, type_ in types.items()},
        {f"out_{name}": (type_, shape) for name, type_ in types.items()},
    )


def unbatched() -> onnx.ModelProto:
    """x FP32 [4] -> y FP32 [4], twice x. No axis is free, so it cannot be batched."""
    return mapped([helper.make_node("Add", ["x", "x"], ["y"])], [4])


def free_axis() -> onnx.ModelProto:
    """x FP32 [batch, length] -> total FP32 [batch, 1]: requests of different lengths may not share a batch."""
    return model(
        [helper.make_node("ReduceSum", ["x", "axes"], ["total"])],
        {"x": (TensorProto.FLOAT, ["batch", "length"])},
        {"total": (TensorProto.FLOAT, ["batch", 1])},
        {"axes": np.array([1], np.int64)},
    )


def gather() -> onnx.ModelProto:
    """index INT64 [batch] -> value FP32 [batch] of [0, 10, 20, 30]. An index out of range fails the whole batch."""
    return model(
        [helper.make_node("Gather", ["values", "index"], ["value"])],
        {"index": (TensorProto.INT64, ["batch"])},
        {"value": (TensorProto.FLOAT, ["batch"])},
        {"values": np.array([0, 10, 20, 30], np.float32)},
    )


def added() -> onnx.ModelProto:
    """x FP32 [batch, n] and y FP32 [batch, m] -> sum FP32 [batch, k]. Sizes that differ, and are not 1, have no sum."""
    return model(
        [helper.make_node("Add", ["x", "y"], ["sum"])],
        {"x": (TensorProto.FLOAT, ["batch", "n"]), "y": (TensorProto.FLOAT, ["batch", "m"])},
        {"sum": (TensorProto.FLOAT, ["batch", "k"])},
    )


def reshaped() -> onnx.ModelProto:
    """x FP32 [n, m] and shape INT64 [2] -> y FP32 [a, b]: x in this shape, if it fits."""
    return model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n", "m"]), "shape": (TensorProto.INT64, [2])},
        {"y": (TensorProto.FLOAT, ["a", "b"])},
    )


def filled() -> onnx.ModelProto:
    """shape INT64 [2] -> y FP32 [a, b]: zeros, in this shape."""
    return model(
        [helper.make_node("ConstantOfShape", ["shape"], ["y"])],
        {"shape": (TensorProto.INT64, [2])},
        {"y": (TensorProto.FLOAT, ["a", "b"])},
    )


def recurrent() -> onnx.ModelProto:
    """x FP32 [length, batch, 3] -> y FP32 [length, 1, batch, 2]: an LSTM, which aborts the process on a batch of 0."""
    return model(
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2)],
        {"x": (TensorProto.FLOAT, ["length", "batch", 3])},
        {"y": (TensorProto.FLOAT, ["length", 1, "batch", 2])},
        {"w": np.ones((1, 8, 3), np.float32), "r": np.ones((1, 8, 2), np.float32)},
    )


def not_a_batch_axis() -> onnx.ModelProto:
    """x FP32 [n] -> y FP32 [m], m = 2 n: both first axes are free, but neither is a batch."""
    return model(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        {"x": (TensorProto.FLOAT, ["n"])},
        {"y": (TensorProto.FLOAT, ["m"])},
    )


def state() -> onnx.ModelProto:
    """x FP32 [batch, 3], state FP32 [2, batch, 3] and a scalar scale INT64 -> y FP32 [batch, 3] = x · scale + state[0],
    and next_state FP32 [2, batch, 3] = state + x: as in a recurrent network that is called step by step."""
    return model(
        [
            helper.make_node("Cast", ["scale"], ["factor"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "factor"], ["scaled"]),
            helper.make_node("Gather", ["state", "first"], ["layer"]),
            helper.make_node("Add", ["scaled", "layer"], ["y"]),
            helper.make_node("Add", ["state", "x"], ["next_state"]),
        ],
        {
            "x": (TensorProto.FLOAT, ["batch", 3]),
            "state": (TensorProto.FLOAT, [2, "batch", 3]),
            "scale": (TensorProto.INT64, []),
        },
        {"y": (TensorProto.FLOAT, ["batch", 3]), "next_state": (TensorProto.FLOAT, [2, "batch", 3])},
        {"first": np.array(0, np.int64)},
    )


def every_scalar() -> onnx.ModelProto:
    """One scalar input of every datatype, in_<datatype>, that comes back as out_<datatype>."""
    return every_type([])


def sum_and_difference(datatype: str = "INT32") -> onnx.ModelProto:
    """INPUT0 and INPUT1 [batch, 16] -> OUTPUT0, their sum, and OUTPUT1, their difference.

    The model ``simple`` of Triton's examples; with BYTES ``simple_string``, which reads numbers from strings.
    """
    type_ = TYPES[datatype]
    shape: Shape = ["batch", 16]
    before, after, operands, results = [], [], ["INPUT0", "INPUT1"], ["OUTPUT0", "OUTPUT1"]
    if datatype == "BYTES":
        before = [helper.make_node("Cast", [name], [f"{name}_number"], to=TensorProto.INT32) for name in operands]
        after = [helper.make_node("Cast", [f"{name}_number"], [name], to=TensorProto.STRING) for name in results]
        operands, results = ([f"{name}_number" for name in names] for names in (operands, results))
    nodes = [helper.make_node(name, operands, [result]) for name, result in zip(("Add", "Sub"), results, strict=True)]
    return model(
        [*before, *nodes, *after],
        {"INPUT0": (type_, shape), "INPUT1": (type_, shape)},
        {"OUTPUT0": (type_, shape), "OUTPUT1": (type_, shape)},
    )


def doubled(first: str, last: str, metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """x FP32 [first, 2] -> y FP32 [last, 2], twice x; first and last are the names of the first axes."""
    return model(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        {"x": (TensorProto.FLOAT, [first, 2])},
        {"y": (TensorProto.FLOAT, [last, 2])},
        metadata=metadata,
    )


def shifted(by: float) -> onnx.ModelProto:
    """x FP32 [batch, 2] -> y FP32 [batch, 2], x plus a constant. Its file has the same size for each constant."""
    return mapped([helper.make_node("Add", ["x", "by"], ["y"])], ["batch", 2], {"by": np.array(by, np.float32)})


def aborting() -> onnx.ModelProto:
    """x FP32 [length, batch, 3] -> y: its LSTM gets an empty batch, for which ONNX Runtime aborts the process."""
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


def tiled(times: int = 100) -> onnx.ModelProto:
    """x FP32 [batch, n] -> y FP32 [batch, m]: x so many times over."""
    return model(
        [helper.make_node("Tile", ["x", "repeats"], ["y"])],
        {"x": (TensorProto.FLOAT, ["batch", "n"])},
        {"y": (TensorProto.FLOAT, ["batch", "m"])},
        {"repeats": np.array([1, times])},
    )


def slow() -> onnx.ModelProto:
    """rounds INT64 [1] -> done INT64 [1]: a loop of that many rounds."""
    make = helper.make_node
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            make("Identity", ["going"], ["still_going"]),
            make("MatMul", ["matrix", "matrix"], ["product"]),
            make("ReduceMax", ["product"], ["largest"], keepdims=0),
            make("Cast", ["largest"], ["step"], to=TensorProto.INT64),
            make("Add", ["count", "step"], ["next"]),
        ],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("going", TensorProto.BOOL, []),
            info("count", TensorProto.INT64, [1]),
        ],
        [info("still_going", TensorProto.BOOL, []), info("next", TensorProto.INT64, [1])],
    )
    return model(
        [
            make("Squeeze", ["rounds"], ["times"]),
            make("Loop", ["times", "yes", "zero"], ["done"], body=body),
        ],
        {"rounds": (TensorProto.INT64, [1])},
        {"done": (TensorProto.INT64, [1])},
        {"yes": np.array(True), "zero": np.zeros(1, np.int64), "matrix": np.eye(32, dtype=np.float32)},
    )


def publish(models: Path, name: str, model: onnx.ModelProto, version: int = 1) -> Path:
    """Write a model into a repository; returns the file."""
    file = models / name / str(version) / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(model.SerializeToString())
    return file


def publish_all(models: Path, *names: str) -> Path:
    """Write the models of this module with these names into a repository; returns the repository."""
    for name in names:
        publish(models, name, globals()[name]())
    return models
