"""Simplify the graph around each LSTM with standard ONNX operators, so that the graph is faster in every runtime.

PyTorch's exporter writes nn.LSTM in its general form. Some nodes expand initial states of zeros to the batch size, and
slice them. Other nodes remove the direction axis, whose size is 1. Others transpose all steps and select the last one.
ONNX's LSTM starts from zeros by default and outputs its last state, so the nodes that create the initial states or read
the last step are removed: 7 of the 22 nodes of the model lstm remain.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper
from onnxscript import optimizer

Sizes = tuple[int | None, ...]


def simplify_lstms(model: onnx.ModelProto) -> None:
    """Simplify the model's LSTMs in place, if constants and shapes prove that no answer changes."""
    graph = _Graph.from_model(model)
    for node in [node for node in model.graph.node if node.op_type == "LSTM"]:
        _drop_zero_states(node, graph)
        if _is_forward(node):
            _merge_direction(node, graph)
    optimizer.remove_unused_nodes(model)
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type == "LSTM" and node.output[0] not in used:
            node.output[0] = ""  # so that the runtime does not output all steps


@dataclass(frozen=True)
class _Graph:
    """A graph with an index of its values by name."""

    graph: onnx.GraphProto
    producers: dict[str, onnx.NodeProto]
    constants: dict[str, onnx.TensorProto]
    sizes: dict[str, Sizes]

    @classmethod
    def from_model(cls, model: onnx.ModelProto) -> "_Graph":
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        return cls(
            model.graph,
            {name: node for node in model.graph.node for name in node.output},
            {tensor.name: tensor for tensor in model.graph.initializer},
            {
                value.name: tuple(
                    dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim
                )
                for value in (*inferred.value_info, *inferred.input, *inferred.output)
            },
        )

    def readers(self, name: str, operator: str) -> Iterator[onnx.NodeProto]:
        """The nodes of this operator whose first input is this value."""
        return (node for node in self.graph.node if node.op_type == operator and node.input[0] == name)

    def is_zero(self, name: str) -> bool:
        """Return whether every element of the value is known to be 0."""
        if name in self.constants:
            return not numpy_helper.to_array(self.constants[name]).any()
        node = self.producers.get(name)
        return node is not None and node.op_type in ("Expand", "Slice") and self.is_zero(node.input[0])

    def axis_constant(self, name: str, axis: int) -> str:
        """Return the name of a constant that holds this axis, after adding the constant if it is missing."""
        if name not in self.constants:
            self.graph.initializer.append(numpy_helper.from_array(np.array([axis], np.int64), name))
            self.constants[name] = self.graph.initializer[-1]
        return name


def _drop_zero_states(node: onnx.NodeProto, graph: _Graph) -> None:
    """Drop the inputs initial_h and initial_c (after X, W, R, B and sequence_lens) if they are zero, which is their
    default."""
    if any(node.input[7:]) or not all(name == "" or graph.is_zero(name) for name in node.input[5:7]):
        return
    inputs = list(node.input[:5])
    while inputs[-1] == "":
        inputs.pop()
    del node.input[:]
    node.input.extend(inputs)


def _is_forward(node: onnx.NodeProto) -> bool:
    """Return whether this is a forward LSTM in ONNX's default layout, in which the first axis is the steps."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    is_forward = "direction" not in attributes or attributes["direction"].s == b"forward"
    return is_forward and ("layout" not in attributes or attributes["layout"].i == 0)


def _merge_direction(node: onnx.NodeProto, graph: _Graph) -> None:
    """Let a Squeeze turn Y [steps, 1, batch, hidden] into [steps, batch, hidden]. If the graph reads only the last
    step, read the LSTM's last state instead."""
    all_steps = node.output[0]
    for transposed in graph.readers(all_steps, "Transpose"):  # [steps, batch, 1, hidden]
        if _permutation(transposed) != [0, 2, 1, 3]:
            continue
        steps, _, _, hidden = graph.sizes.get(transposed.output[0], (None,) * 4)
        for merged in graph.readers(transposed.output[0], "Reshape"):
            # [steps, batch, hidden] -> [batch, steps, hidden]
            batch_first = [
                reader for reader in graph.readers(merged.output[0], "Transpose") if _permutation(reader) == [1, 0, 2]
            ]
            # If shape inference does not know the output shape of Reshape, the output shape of Transpose determines it.
            shapes = [graph.sizes.get(merged.output[0], ())]
            shapes += [(sizes[1], sizes[0], sizes[2]) for sizes in _sizes(batch_first, graph) if len(sizes) == 3]
            # Reshape keeps the number of values. So if its first axis has the size ``steps`` and its last axis the size
            # ``hidden``, the axis between them is the batch, and Reshape only removes the axis of size 1.
            if steps is None or hidden is None or not any(sizes[::2] == (steps, hidden) for sizes in shapes):
                continue
            _turn_into_squeeze(merged, all_steps, graph.axis_constant("axis.direction", 1))
            for reader in batch_first:
                _read_last_state(node, reader, steps, graph)


def _sizes(nodes: list[onnx.NodeProto], graph: _Graph) -> list[Sizes]:
    return [graph.sizes.get(node.output[0], ()) for node in nodes]


def _read_last_state(node: onnx.NodeProto, batch_first: onnx.NodeProto, steps: int, graph: _Graph) -> None:
    """Connect each node that reads the last step to the LSTM's output Y_h [1, batch, hidden], which holds that step."""
    for gather in graph.readers(batch_first.output[0], "Gather"):
        axis = next((attribute.i for attribute in gather.attribute if attribute.name == "axis"), 0)
        step = graph.constants.get(gather.input[1])
        if axis != 1 or step is None or step.dims or int(numpy_helper.to_array(step)) not in (-1, steps - 1):
            continue
        if len(node.output) == 1:
            node.output.append("")
        node.output[1] = node.output[1] or f"{node.output[0]}.last"
        _turn_into_squeeze(gather, node.output[1], graph.axis_constant("axis.first", 0))


def _turn_into_squeeze(node: onnx.NodeProto, value: str, axes: str) -> None:
    node.op_type = "Squeeze"
    node.ClearField("attribute")
    del node.input[:]
    node.input.extend([value, axes])


def _permutation(transpose: onnx.NodeProto) -> list[int]:
    return [int(axis) for attribute in transpose.attribute if attribute.name == "perm" for axis in attribute.ints]
