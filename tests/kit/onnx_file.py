"""Creates and reads ONNX files with metadata or external data, and runs files in plain ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from tests.kit import onnx_models

Array = npt.NDArray[Any]


def metadata(file: Path) -> dict[str, str]:
    """The file's metadata with the prefix ``hangtag.``, keyed by the rest of each key."""
    entries = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    return {key.removeprefix("hangtag."): value for key, value in entries.items() if key.startswith("hangtag.")}


def with_metadata(model: Path | onnx.ModelProto, **changed: str | None) -> onnx.ModelProto:
    """A copy of a model in which the metadata ``hangtag.KEY`` have these values; None removes a key."""
    model = onnx.load(model) if isinstance(model, Path) else model
    own = {entry.key: entry.value for entry in model.metadata_props}
    all_of_them = own | {f"hangtag.{key}": value for key, value in changed.items()}
    onnx.helper.set_model_props(model, {key: value for key, value in all_of_them.items() if value is not None})
    return model


def with_external_weights(
    place: str, datatype: onnx.TensorProto.DataType, size: int, offset: int = 0
) -> onnx.ModelProto:
    """A model with x [batch, size] -> y = x + weights. The weights are in the file ``place``, from this offset on."""
    tensor = datatype, ("batch", size)
    built = onnx_models.model([onnx.helper.make_node("Add", ["x", "w"], ["y"])], {"x": tensor}, {"y": tensor})
    weights = built.graph.initializer.add(name="w", data_type=datatype, dims=[size])
    weights.data_location = onnx.TensorProto.EXTERNAL
    length = size * onnx.helper.tensor_dtype_to_np_dtype(datatype).itemsize
    for key, value in (("location", place), ("offset", str(offset)), ("length", str(length))):
        weights.external_data.add(key=key, value=value)
    return built


def answers(model: Path | onnx.ModelProto, batch: int = 50, **inputs: Array) -> dict[str, Array]:
    """Run a model on these inputs, and return the outputs by name.

    Args:
        model: A file, or a model in memory.
        batch: The number of samples in a batch.
        inputs: The inputs by name. The first axis of each input holds the samples.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = model.read_bytes() if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    rows = len(next(iter(inputs.values())))
    parts = [
        session.run(None, {name: array[start : start + batch] for name, array in inputs.items()})
        for start in range(0, rows, batch)
    ]
    names = [output.name for output in session.get_outputs()]
    return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def apart(actual: Array, expected: Array) -> tuple[float, float]:
    """The maximum and the root-mean-square difference, as fractions of the range of the expected values."""
    difference = np.abs(actual - expected) / np.ptp(expected)
    return float(difference.max()), float(np.sqrt(np.mean(difference**2)))


def signature(file: Path) -> tuple[dict[str, tuple[str, list[int | str]]], dict[str, tuple[str, list[int | str]]]]:
    """The declared inputs and outputs: name -> ONNX's name of the datatype, and the shape."""
    graph = onnx.load(file).graph
    inputs, outputs = ({value.name: _tensor(value) for value in values} for values in (graph.input, graph.output))
    return inputs, outputs


def replace(model: onnx.ModelProto, name: str, values: Array) -> None:
    """Replace the initializer that has this name."""
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))


def initializer(model: onnx.ModelProto, name: str) -> Array:
    """A copy of the values of the initializer with this name."""
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    return np.array(onnx.numpy_helper.to_array(tensor))


def add(model: onnx.ModelProto, name: str, amount: float, at: int | slice = slice(None)) -> None:
    """Add an amount to the initializer with this name: to all values, or only to those at ``at``."""
    values = initializer(model, name)
    values[at] += amount
    replace(model, name, values)


def remake(model: onnx.ModelProto, output: str, text: str, **constants: Array) -> None:
    """Insert nodes that compute an output from its previous value, which the nodes read as ``before``.

    Args:
        model: The model, which this function changes.
        output: The output's name.
        text: The constants and nodes, as ``<constants> { nodes }``.
        constants: Constants that are too large for ``text``.
    """
    added = onnx_models.from_text(f"() => () {text}", None, **constants).graph
    ((place, maker),) = [(at, node) for at, node in enumerate(model.graph.node) if output in node.output]
    maker.output[list(maker.output).index(output)] = "before"
    for at, node in enumerate(added.node, start=place + 1):
        model.graph.node.insert(at, node)
    model.graph.initializer.extend(added.initializer)


def _tensor(value: onnx.ValueInfoProto) -> tuple[str, list[int | str]]:
    tensor = value.type.tensor_type
    shape: list[int | str] = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    return onnx.TensorProto.DataType.Name(tensor.elem_type), shape
