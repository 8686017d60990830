"""Put the preprocessing before a network's graph, and the softmax behind it, by onnx's own function that joins models.

The published input is ``image``, UINT8 [batch, height, width] or [batch, height, width, 3], and the outputs are
``logits``, where the network's scores are logits, and ``probabilities``, FP32 [batch, labels].

onnx's checker and its shape inference run meanwhile, so a child process does it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model
from hangtag.export.third_party.preprocessing import (
    LOGITS,
    PROBABILITIES,
    NetworkImage,
    Preprocessing,
    Steps,
    steps,
)  # fmt: skip
from hangtag.serving.signature import PREFIX

IMAGE = "image"
_PIXELS, _SCORES = "hangtag.pixels", "hangtag.scores"
"""Where the parts are joined."""
_RENAMED = {name: f"hangtag.network.{name}" for name in (IMAGE, LOGITS, PROBABILITIES)}
_FIRST_OPSET = 7
"""The first in which arithmetic fits shapes to each other."""
_DATATYPES: Mapping[int, str] = {TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.UINT8: "UINT8"}
_PASSING = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze")
"""Operators through which scores pass on to the output."""


def wrap(
    bare: str, target: str, stated: dict[str, Any], scores: str | None, labels: int, *, freed: bool = False
) -> dict[str, Any]:
    """Join preprocessing, network and softmax, in a child process.

    Args:
        bare: The network's file.
        target: The file to write, without metadata under ``hangtag.``.
        stated: A ``Preprocessing``, as ``asdict`` has it: how pixels become the network's input.
        scores: One of ``preprocessing.SCORES``; None for what the graph shows: probabilities behind
            a Softmax, else logits.
        labels: How many there are.
        freed: Whether to declare the first axis free. Whether the network then computes must be tried.

    Returns:
        ``steps``, what it does to pixels; ``output``, the name of the network's output with the scores; ``scores``;
        and ``batch``, the size of the first axis, None where it is free. Where the input is no single picture, the
        preprocessing does not fit it, or no output has a score for each label: ``unfit``, the reason.
    """
    if labels == 0:
        return {"unfit": "nothing names the labels: give a file with --labels."}
    model = onnx.load(bare)
    try:
        if freed:
            _free(model, labels)
        image = _image(model)
        completed = steps(Preprocessing.of(stated), image)
        output = _output(model, labels)
        scores = scores or _scores(model.graph, output.name)
        joined = _joined(model, image, output, completed, scores, labels)
    except ExportError as error:
        return {"unfit": str(error)}
    Path(target).write_bytes(joined.SerializeToString())
    return {"steps": asdict(completed), "output": output.name, "scores": scores, "batch": image.batch}


def _joined(
    model: onnx.ModelProto,
    image: NetworkImage,
    output: onnx.ValueInfoProto,
    completed: Steps,
    scores: str,
    labels: int,
) -> onnx.ModelProto:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _FIRST_OPSET:
        raise ExportError(f"the file has opset {opset}: export the network with opset {_FIRST_OPSET} or a newer one.")
    network = _network(model, output.name)
    (scored,) = (value.name for value in network.graph.output)
    batch = "batch" if image.batch is None else image.batch
    before = _before(completed, batch, model)
    after = _after(output, scores, batch, labels, model)
    try:
        joined = compose.merge_models(before, network, io_map=[(_PIXELS, _RENAMED.get(image.name, image.name))])
        joined = compose.merge_models(joined, after, io_map=[(scored, _SCORES)])
    except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"onnx cannot join the preprocessing and the network ({reason}).") from error
    opsets = {entry.domain: entry.version for entry in joined.opset_import}  # each is there once for each part
    del joined.opset_import[:]
    joined.opset_import.extend(helper.make_opsetid(*entry) for entry in opsets.items())
    joined.producer_name, joined.producer_version = model.producer_name, model.producer_version
    joined.graph.name, joined.graph.doc_string = model.graph.name, model.graph.doc_string
    return joined


def _free(model: onnx.ModelProto, labels: int) -> None:
    """Declare the first axis of the picture and of its scores as free."""
    names = (_image(model).name, _output(model, labels).name)
    del model.graph.value_info[:]  # they have the fixed size
    for value in (*model.graph.input, *model.graph.output):
        if value.name in names:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _image(model: onnx.ModelProto) -> NetworkImage:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    image = None
    if len(inputs) == 1:
        (value,) = inputs
        datatype = _DATATYPES.get(value.type.tensor_type.elem_type, "")
        image = NetworkImage.of(value.name, datatype, _shape(value))
    if image is None:
        shown = ", ".join(f"{value.name} {_shape(value)}" for value in inputs).replace("None", "any")
        raise ExportError(
            f"the network's inputs ({shown}) are no single picture in FP32, FP16 or UINT8, [batch, 3, height, width] "
            "or [batch, height, width, 3]."
        )
    return image


def _output(model: onnx.ModelProto, labels: int) -> onnx.ValueInfoProto:
    """The output with a score for each label; of several the one that is called so."""
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
    shown = ", ".join(f"{value.name} {_shape(value)}" for value in outputs).replace("None", "any")
    count = "several have" if fitting else "none has"
    raise ExportError(f"of the network's outputs ({shown}) {count} one score for each of {labels} labels.")


def _has_scores(value: onnx.ValueInfoProto, labels: int) -> bool:
    shape = _shape(value)
    floats = value.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
    return floats and len(shape) >= 2 and shape[1] in (None, labels) and all(size == 1 for size in shape[2:])


def _scores(graph: onnx.GraphProto, name: str) -> str:
    made = {output: node for node in graph.node for output in node.output}
    while name in made and made[name].op_type in _PASSING:
        name = made[name].input[0]
    return PROBABILITIES if name in made and made[name].op_type == "Softmax" else LOGITS


def _network(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """A copy with this output alone, in which no value is called as the published inputs and outputs are.

    onnx's own ``add_prefix`` and ``outputs`` of ``merge_models`` forget constants that branches and loops read.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    kept = [value for value in model.graph.output if value.name == output]
    del copied.graph.output[:]
    copied.graph.output.extend(kept)
    others = {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith(PREFIX)}
    helper.set_model_props(copied, others)
    onnx_model.rename(copied.graph, _RENAMED)
    return copied


def _before(given: Steps, batch: str | int, like: onnx.ModelProto) -> onnx.ModelProto:
    """From ``image`` to the network's input."""
    height, width, channels = given.spec.height, given.spec.width, given.spec.channels
    along = {None: [], 1: [channels, 1, 1], 3: [channels]}[given.axis]
    shape: Sequence[str | int] = {
        None: (batch, height, width), 1: (batch, channels, height, width), 3: (batch, height, width, channels),
    }[given.axis]  # fmt: skip
    graph = _Graph(IMAGE)
    if given.order == "bgr":
        graph.add("Gather", np.array([2, 1, 0]), axis=3)
    if given.axis == 1 and channels == 3:
        graph.add("Transpose", perm=[0, 3, 1, 2])
    elif given.axis is not None and channels == 1:
        axes = (0, 1, height, width) if given.axis == 1 else (0, height, width, 1)  # 0 keeps the batch
        graph.add("Reshape", np.array(axes))
    if given.datatype != "UINT8":
        graph.add("Cast", to=TensorProto.FLOAT)
        for operator, numbers, without in (("Mul", given.factor, 1), ("Add", given.offset, 0)):
            if (numbers != without).any():
                graph.add(operator, np.broadcast_to(numbers, channels).reshape(along) if along else numbers[0])
    if given.datatype == "FP16":
        graph.add("Cast", to=TensorProto.FLOAT16)
    (datatype,) = (number for number, name in _DATATYPES.items() if name == given.datatype)
    return graph.model(
        "preprocessing",
        helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, (batch, *given.spec.shape)),
        {_PIXELS: (datatype, shape)},
        like,
    )


def _after(
    output: onnx.ValueInfoProto, scores: str, batch: str | int, labels: int, like: onnx.ModelProto
) -> onnx.ModelProto:
    """From the network's scores to ``logits`` and ``probabilities``."""
    graph = _Graph(_SCORES)
    if len(output.type.tensor_type.shape.dim) > 2:
        graph.add("Flatten", axis=1)
    if output.type.tensor_type.elem_type == TensorProto.FLOAT16:
        graph.add("Cast", to=TensorProto.FLOAT)
    outputs: dict[str, tuple[int, Sequence[str | int]]] = {PROBABILITIES: (TensorProto.FLOAT, (batch, labels))}
    if scores == LOGITS:
        graph.name_last(LOGITS)
        graph.add("Softmax", axis=1)
        outputs = {LOGITS: (TensorProto.FLOAT, (batch, labels)), **outputs}
    taken = onnx.ValueInfoProto()
    taken.CopyFrom(output)
    taken.name = _SCORES
    return graph.model("scores", taken, outputs, like)


class _Graph:
    """A row of nodes, each of which takes the output of the one before."""

    def __init__(self, first: str) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._last = first

    def add(self, operator: str, constant: object = None, **attributes: Any) -> None:
        """Add a node, with a constant as its second input if there is one."""
        output = f"hangtag.{operator}.{self._last}"
        inputs = [self._last]
        if constant is not None:  # nodes, since files of old versions list each initializer as an input too
            values = numpy_helper.from_array(np.asarray(constant))
            inputs.append(f"{output}.constant")
            self._nodes.append(helper.make_node("Constant", [], [inputs[1]], value=values))
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        self._last = output

    def name_last(self, name: str) -> None:
        """Give the last value this name."""
        self._nodes.append(helper.make_node("Identity", [self._last], [name], name=f"hangtag.{name}"))
        self._last = name

    def model(
        self,
        name: str,
        taken: onnx.ValueInfoProto,
        outputs: Mapping[str, tuple[int, Sequence[str | int]]],
        like: onnx.ModelProto,
    ) -> onnx.ModelProto:
        """The model, whose last output is the last value, with the versions of another one."""
        self.name_last(list(outputs)[-1])
        answered = [helper.make_tensor_value_info(name, *described) for name, described in outputs.items()]
        return helper.make_model(
            helper.make_graph(self._nodes, name, [taken], answered),
            opset_imports=like.opset_import,
            ir_version=like.ir_version,
        )


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
