"""Add the preprocessing before a network's graph, and the softmax after it.

The published input is ``image``, UINT8 [batch, height, width] or [batch, height, width, 3]. The outputs are
``probabilities``, FP32 [batch, labels], and, if the network's scores are logits, ``logits``.

``wrap`` runs in a child process, because onnx's shape inference may crash on a bad file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model
from hangtag.export.third_party.preprocessing import LOGITS, PROBABILITIES, NetworkImage, Stated, Steps, steps

IMAGE = "image"
_RENAMED = {name: f"hangtag.network.{name}" for name in (IMAGE, LOGITS, PROBABILITIES)}
_FIRST_OPSET = 7
"""The first opset in which arithmetic broadcasts shapes."""
_DATATYPES: Mapping[int, str] = {TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.UINT8: "UINT8"}
_PASSING = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze")
"""The operators that may stand between a softmax and the output, because they do not change scores."""


@dataclass(frozen=True)
class Wrapped:
    """A network with its preprocessing and softmax in one file.

    Attributes:
        file: The ONNX file, which has no metadata under ``hangtag.`` yet.
        steps: The preprocessing of pixels.
        output: The name of the network's output with scores.
        scores: One of ``preprocessing.SCORES``.
    """

    file: Path
    steps: Steps
    output: str
    scores: str


def wrap(bare: Path, target: Path, stated: Stated) -> Wrapped | str:
    """Write a file with preprocessing, network and softmax. Call this function in a child process.

    Args:
        bare: The network's file.
        target: The file to write.
        stated: The network's properties, from options and companion files. If ``scores`` is None, a network that ends
            with a Softmax returns probabilities, and any other network returns logits.

    Returns:
        The file; or the reason why it cannot be written: there are no labels, the input is not one picture, the
        preprocessing does not fit the input, or no output has a score for each label.
    """
    if not stated.labels:
        return "there are no labels: give a file with --labels."
    model, labels = onnx.load(bare), len(stated.labels)
    try:
        image = _image(model)
        if image.batch not in (None, 1):
            return (
                f"it takes exactly {image.batch} pictures at a time. Export the network with a free first "
                "axis (dynamic_axes or dynamic_shapes of torch.onnx.export)."
            )
        completed = steps(stated, image)
        output = _output(model, labels)
        name, scores = output.name, stated.scores or _scores(model.graph, output.name)
        _join(model, image, output, completed, scores, labels)
    except ExportError as error:
        return str(error)
    onnx_model.write(model, {}, target)
    return Wrapped(target, completed, name, scores)


def _join(
    model: onnx.ModelProto,
    image: NetworkImage,
    output: onnx.ValueInfoProto,
    completed: Steps,
    scores: str,
    labels: int,
) -> None:
    """Add nodes before and after the model's nodes, in place. Rename values whose names the added nodes use."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _FIRST_OPSET:
        raise ExportError(f"the file has opset {opset}: export the network with opset {_FIRST_OPSET} or newer.")
    batch = "batch" if image.batch is None else image.batch
    before = _before(completed)
    before.end(_RENAMED.get(image.name, image.name))
    after = _after(output, scores)
    onnx_model.rename(model.graph, _RENAMED)
    graph = model.graph
    nodes = onnx.GraphProto(node=[*before.nodes, *graph.node, *after.nodes])  # copied before the field is emptied
    inputs = onnx.GraphProto(input=[value for value in graph.input if value.name != before.last])
    for field in ("node", "input", "output"):
        graph.ClearField(field)
    graph.node.extend(nodes.node)
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, (batch, *completed.spec.shape)))
    graph.input.extend(inputs.input)  # old ONNX versions list an input for each constant
    for name in (LOGITS, PROBABILITIES) if scores == LOGITS else (PROBABILITIES,):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (batch, labels)))


def _image(model: onnx.ModelProto) -> NetworkImage:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    image = None
    if len(inputs) == 1:
        (value,) = inputs
        image = NetworkImage.of(value.name, datatype(value), shape(value))
    if image is None:
        shown = ", ".join(f"{value.name} {shape(value)}" for value in inputs).replace("None", "any")
        raise ExportError(
            f"the network's inputs ({shown}) are not a single picture in FP32, FP16 or UINT8, [batch, 3, height, "
            "width] or [batch, height, width, 3]."
        )
    return image


def _output(model: onnx.ModelProto, labels: int) -> onnx.ValueInfoProto:
    """Return the output with a score for each label. If there are several, return the one named logits or
    probabilities."""
    inferred: Mapping[str, onnx.ValueInfoProto] = {}
    if any(not value.type.tensor_type.HasField("shape") for value in model.graph.output):
        inferred = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.output}
    outputs = [inferred.get(value.name, value) for value in model.graph.output]
    fitting = [value for value in outputs if _has_scores(value, labels)]
    named = [value for value in fitting if value.name in (LOGITS, PROBABILITIES)]
    if len(fitting) > 1 and len(named) == 1:
        return named[0]
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join(f"{value.name} {shape(value)}" for value in outputs).replace("None", "any")
    count = "several have" if fitting else "none has"
    remedy = "rename only the correct output to 'logits'" if fitting else "--labels must name one label for each score"
    raise ExportError(f"of the network's outputs ({shown}) {count} one score for each of {labels} labels: {remedy}.")


def _has_scores(value: onnx.ValueInfoProto, labels: int) -> bool:
    sizes = shape(value)
    floats = value.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
    return floats and len(sizes) >= 2 and sizes[1] in (None, labels) and all(size == 1 for size in sizes[2:])


def _scores(graph: onnx.GraphProto, name: str) -> str:
    makers = {output: node for node in graph.node for output in node.output}
    while name in makers and makers[name].op_type in _PASSING:
        name = makers[name].input[0]
    return PROBABILITIES if name in makers and makers[name].op_type == "Softmax" else LOGITS


def _before(given: Steps) -> "_Chain":
    """Return the nodes that compute the network's input from ``image``."""
    height, width, channels = given.spec.height, given.spec.width, given.spec.channels
    along = {None: [], 1: [channels, 1, 1], 3: [channels]}[given.axis]
    chain = _Chain(IMAGE)
    if given.order == "bgr":
        chain.add("Gather", np.array([2, 1, 0]), axis=3)
    if given.axis == 1 and channels == 3:
        chain.add("Transpose", perm=[0, 3, 1, 2])
    elif given.axis is not None and channels == 1:
        # a size of 0 keeps the size of the batch axis
        axes = (0, 1, height, width) if given.axis == 1 else (0, height, width, 1)
        chain.add("Reshape", np.array(axes))
    if given.datatype != "UINT8":
        chain.add("Cast", to=TensorProto.FLOAT)
        for operator, numbers, without in (("Mul", given.factor, 1), ("Add", given.offset, 0)):
            if (numbers != without).any():
                chain.add(operator, np.broadcast_to(numbers, channels).reshape(along) if along else numbers[0])
    if given.datatype == "FP16":
        chain.add("Cast", to=TensorProto.FLOAT16)
    return chain


def _after(output: onnx.ValueInfoProto, scores: str) -> "_Chain":
    """Return the nodes that compute ``logits`` and ``probabilities`` from the network's scores."""
    chain = _Chain(_RENAMED.get(output.name, output.name))
    if len(shape(output)) > 2:
        chain.add("Flatten", axis=1)
    if output.type.tensor_type.elem_type == TensorProto.FLOAT16:
        chain.add("Cast", to=TensorProto.FLOAT)
    if scores == LOGITS:
        chain.end(LOGITS)
        chain.add("Softmax", axis=1)
    chain.end(PROBABILITIES)
    return chain


class _Chain:
    """A sequence of nodes. Each node reads the output of the node before."""

    def __init__(self, first: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.last = first

    def add(self, operator: str, constant: object = None, **attributes: Any) -> None:
        """Add a node. If there is a constant, it is the node's second input."""
        output = f"hangtag.{operator}.{self.last}"
        inputs = [self.last]
        if constant is not None:  # a Constant node, because old ONNX versions list initializers as inputs
            values = numpy_helper.from_array(np.asarray(constant))
            inputs.append(f"{output}.constant")
            self.nodes.append(helper.make_node("Constant", [], [inputs[1]], value=values))
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        self.last = output

    def end(self, name: str) -> None:
        """Change the name of the last value to ``name``."""
        self.nodes.append(helper.make_node("Identity", [self.last], [name], name=f"hangtag.{name}"))
        self.last = name


def datatype(value: onnx.ValueInfoProto) -> str:
    """FP32, FP16 or UINT8; empty for any other datatype."""
    return _DATATYPES.get(value.type.tensor_type.elem_type, "")


def shape(value: onnx.ValueInfoProto) -> list[int | None]:
    """The size of each axis; None for a free axis."""
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
