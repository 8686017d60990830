"""Builds small ONNX models, node by node or from ONNX's text format, and puts them into a model repository."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from tests.kit.picture_files import encoded

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
    """Build a model. ``inputs`` and ``outputs`` give an element type and a shape by name. Dynamic axes have names."""
    taken, answered = (
        [helper.make_tensor_value_info(name, type_, shape) for name, (type_, shape) in values.items()]
        for values in (inputs, outputs)
    )
    return _of_graph(helper.make_graph(list(nodes), "test", taken, answered), constants or {}, metadata)


def from_text(
    text: str, metadata: Mapping[str, str] | None = None, **constants: npt.NDArray[np.generic]
) -> onnx.ModelProto:
    """Build a model from ONNX's text format, ``(inputs) => (outputs) <constants> { nodes }``. Dynamic axes have names.

    Args:
        text: The graph without its name. ``Cast`` needs the number of a type: 1 for FP32, 6 for INT32, 7 for INT64, 8
            for strings.
        metadata: The model's metadata.
        constants: Constants that are too large for ``text``.
    """
    graph = onnx.parser.parse_graph(f"test {text}")
    named = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    del graph.initializer[:]
    for node in graph.node:
        node.ClearField("domain")  # helper.make_node sets no domain
    return _of_graph(graph, named | constants, metadata)


def _of_graph(
    graph: onnx.GraphProto, constants: Mapping[str, npt.NDArray[np.generic]], metadata: Mapping[str, str] | None
) -> onnx.ModelProto:
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    helper.set_model_props(built, dict(metadata or {}))
    return built


def classifier(*, labels: str | None = None) -> onnx.ModelProto:
    """An affine classifier of pictures."""
    return from_text(
        """(uint8[batch, 28, 28] image) => (float[batch, 10] logits, float[batch, 10] probabilities)
        <int64[2] flat = {-1, 784}> {
            pixels = Cast <to = 1> (image)
            rows = Reshape(pixels, flat)
            logits = Gemm(rows, weights, bias)
            probabilities = Softmax <axis = 1> (logits)
        }""",
        {
            "hangtag.task": "single_label",
            "hangtag.labels": json.dumps(LABELS) if labels is None else labels,
            "hangtag.image": '{"height": 28, "width": 28, "fit": "garment"}',
            "not-ours": "stays out",
        },
        weights=weights(),
        bias=np.arange(10, dtype=np.float32) / 10,
    )


def colours() -> onnx.ModelProto:
    """A classifier with the labels red, green and blue. Its file has examples, and states that pictures are cropped."""
    pictures = [np.eye(3, dtype=np.uint8)[np.full((24, 36), place)] * 200 for place in range(3)]
    examples = [
        {"label": place, "png": base64.b64encode(encoded(each)).decode()} for place, each in enumerate(pictures)
    ]
    return from_text(
        """(uint8[batch, 24, 36, 3] image) => (float[batch, 3] probabilities)
        <int64[2] axes = {1, 2}, float most = {255}> {
            pixels = Cast <to = 1> (image)
            mean = ReduceMean <keepdims = 0> (pixels, axes)
            probabilities = Div(mean, most)
        }""",
        {
            "hangtag.labels": json.dumps(["red", "green", "blue"]),
            "hangtag.image": '{"height": 24, "width": 36, "channels": 3, "mean": [0.9], "fit": "crop"}',
            "hangtag.examples": json.dumps(examples),
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
    """A model with two inputs, ``a`` and ``b``, and two outputs: a + b, and 2 b."""
    return from_text(
        """(float[batch, 3] a, int64[batch, 3] b) => (float[batch, 3] sum, int64[batch, 3] double) {
            b_float = Cast <to = 1> (b)
            sum = Add(a, b_float)
            double = Add(b, b)
        }"""
    )


def text() -> onnx.ModelProto:
    """The input's texts, each followed by an exclamation mark."""
    return from_text(
        """(string[batch] text) => (string[batch] shouted) <string[1] mark = {"!"}> {
            shouted = StringConcat(text, mark)
        }"""
    )


def every_type(shape: Shape = ("batch", 2), *, strings: bool = True) -> onnx.ModelProto:
    """One input of every datatype, in_<datatype>, which the model returns as out_<datatype>."""
    types = {name: type_ for name, type_ in TYPES.items() if strings or name != "BYTES"}
    return model(
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in types],
        {f"in_{name}": (type_, shape) for name, type_ in types.items()},
        {f"out_{name}": (type_, shape) for name, type_ in types.items()},
    )


def unbatched() -> onnx.ModelProto:
    """y = 2 x. No axis is dynamic, so the model cannot be batched."""
    return from_text("(float[4] x) => (float[4] y) { y = Add(x, x) }")


def free_axis() -> onnx.ModelProto:
    """The sum of each row. Rows of different lengths cannot be in the same batch."""
    return from_text(
        "(float[batch, length] x) => (float[batch, 1] total) <int64[1] axes = {1}> { total = ReduceSum(x, axes) }"
    )


def gather() -> onnx.ModelProto:
    """Ten times each index. An index outside of 0 to 3 makes the whole batch fail."""
    return from_text(
        """(int64[batch] index) => (float[batch] value) <float[4] values = {0, 10, 20, 30}> {
            value = Gather(values, index)
        }"""
    )


def added() -> onnx.ModelProto:
    """The sum of x and y, which fails if two sizes of an axis differ and neither is 1."""
    return from_text("(float[batch, n] x, float[batch, m] y) => (float[batch, k] sum) { sum = Add(x, y) }")


def reshaped() -> onnx.ModelProto:
    """x, reshaped to the requested shape, which must have the same number of values."""
    return from_text("(float[n, m] x, int64[2] shape) => (float[a, b] y) { y = Reshape(x, shape) }")


def filled() -> onnx.ModelProto:
    """Zeros in the requested shape."""
    return from_text("(int64[2] shape) => (float[a, b] y) { y = ConstantOfShape(shape) }")


def recurrent() -> onnx.ModelProto:
    """An LSTM, which aborts the process on a batch of size 0."""
    return from_text(
        "(float[length, batch, 3] x) => (float[length, 1, batch, 2] y) { y = LSTM <hidden_size = 2> (x, w, r) }",
        w=np.ones((1, 8, 3), np.float32),
        r=np.ones((1, 8, 2), np.float32),
    )


def not_a_batch_axis() -> onnx.ModelProto:
    """The rows of x twice. Both first axes are dynamic, but y has twice as many rows, so x and y have no batch axis."""
    return from_text("(float[n] x) => (float[m] y) { y = Concat <axis = 0> (x, x) }")


def state() -> onnx.ModelProto:
    """y = x · scale + state[0] and next_state = state + x: like a recurrent network that is called step by step."""
    return from_text(
        """(float[batch, 3] x, float[2, batch, 3] state, int64 scale)
        => (float[batch, 3] y, float[2, batch, 3] next_state) <int64 first = {0}> {
            factor = Cast <to = 1> (scale)
            scaled = Mul(x, factor)
            layer = Gather(state, first)
            y = Add(scaled, layer)
            next_state = Add(state, x)
        }"""
    )


def every_scalar() -> onnx.ModelProto:
    """One scalar input of every datatype, in_<datatype>, which the model returns as out_<datatype>."""
    return every_type([])


def sum_and_difference(datatype: str = "INT32") -> onnx.ModelProto:
    """The model ``simple`` of Triton's examples, or ``simple_string`` if the datatype is BYTES."""
    kind, nodes = datatype.lower(), "OUTPUT0 = Add(INPUT0, INPUT1) OUTPUT1 = Sub(INPUT0, INPUT1)"
    if datatype == "BYTES":
        kind = "string"
        nodes = """
            first = Cast <to = 6> (INPUT0)
            second = Cast <to = 6> (INPUT1)
            sum = Add(first, second)
            difference = Sub(first, second)
            OUTPUT0 = Cast <to = 8> (sum)
            OUTPUT1 = Cast <to = 8> (difference)"""
    inputs, outputs = (", ".join(f"{kind}[batch, 16] {name}{n}" for n in (0, 1)) for name in ("INPUT", "OUTPUT"))
    return from_text(f"({inputs}) => ({outputs}) {{ {nodes} }}")


def doubled(first: str, last: str, metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """Twice x. The first axis of x has the name ``first``, and that of y has the name ``last``."""
    return from_text(f"(float[{first}, 2] x) => (float[{last}, 2] y) {{ y = Add(x, x) }}", metadata)


def shifted(by: float) -> onnx.ModelProto:
    """x plus a constant, in a file whose size does not depend on the constant."""
    return from_text("(float[batch, 2] x) => (float[batch, 2] y) { y = Add(x, by) }", by=np.array(by, np.float32))


def tiled(times: int = 100) -> onnx.ModelProto:
    """x repeated this many times."""
    return from_text("(float[batch, n] x) => (float[batch, m] y) { y = Tile(x, times) }", times=np.array([1, times]))


def slow() -> onnx.ModelProto:
    """A loop of this many iterations."""
    return from_text(
        """(int64[1] rounds) => (int64[1] done) <bool yes = {1}, int64[1] zero = {0}> {
            times = Squeeze(rounds)
            done = Loop <body = body (int64 i, bool going, int64[1] count) => (bool still_going, int64[1] next) {
                still_going = Identity(going)
                product = MatMul(matrix, matrix)
                largest = ReduceMax <keepdims = 0> (product)
                step = Cast <to = 7> (largest)
                next = Add(count, step)
            }> (times, yes, zero)
        }""",
        matrix=np.eye(32, dtype=np.float32),
    )


def publish(models: Path, name: str, model: onnx.ModelProto, version: int = 1) -> Path:
    """Write a model into a repository. Returns the model's file."""
    file = models / name / str(version) / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(model.SerializeToString())
    return file


def publish_route(models: Path, name: str, text: str) -> Path:
    """Write a route's file into a repository. Returns the repository."""
    (models / name).mkdir(parents=True)
    (models / name / "route.toml").write_text(text)
    return models


def publish_all(models: Path, *names: str) -> Path:
    """Write models of this module, given by their names, into a repository. Returns the repository."""
    for name in names:
        publish(models, name, globals()[name]())
    return models
