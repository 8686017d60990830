"""Portable simplification of recurrent graphs: nothing here is ONNX Runtime's own, so any other runtime gains too.

PyTorch's exporter leaves around each LSTM what nn.LSTM does in general: initial states of zeros, expanded to the batch
and cut out again, an axis of one direction merged by computed shapes, all steps turned batch first to read the last.
ONNX's LSTM starts from zeros by itself, and hands out its last state: of lstm's 22 nodes 7 are left.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper
from onnxscript import optimizer

Sizes = tuple[int | None, ...]


def tidy(model: onnx.ModelProto) -> None:
    """Simplify the model in place, where that is proven by its constants and shapes to change no answer."""
    graph = _Graph.of(model)
    for node in [node for node in model.graph.node if node.op_type == "LSTM"]:
        _drop_zero_states(node, graph)
        if _is_forward(node):
            _merge_direction(node, graph)
    optimizer.remove_unused_nodes(model)
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type == "LSTM" and node.output[0] not in used:
            node.output[0] = ""  # of all steps: it need not be written


@dataclass(frozen=True)
class _Graph:
    """What is known of a graph's values, by name."""

    graph: onnx.GraphProto
    made: dict[str, onnx.NodeProto]
    constants: dict[str, onnx.TensorProto]
    sizes: dict[str, Sizes]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> "_Graph":
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
        """The nodes of this operator whose first input it is."""
        return (node for node in self.graph.node if node.op_type == operator and node.input[0] == name)

    def is_zero(self, name: str) -> bool:
        """Whether every element is certainly 0."""
        if name in self.constants:
            return not numpy_helper.to_array(self.constants[name]).any()
        node = self.made.get(name)
        return node is not None and node.op_type in ("Expand", "Slice") and self.is_zero(node.input[0])

    def axes(self, name: str, axis: int) -> str:
        """The name of a constant that holds this axis."""
        if name not in self.constants:
            self.graph.initializer.append(numpy_helper.from_array(np.array([axis], np.int64), name))
            self.constants[name] = self.graph.initializer[-1]
        return name


def _drop_zero_states(node: onnx.NodeProto, graph: _Graph) -> None:
    """Of the inputs X, W, R, B, sequence_lens, initial_h, initial_c the last two are zeros where they are left out."""
    if any(node.input[7:]) or not all(name == "" or graph.is_zero(name) for name in node.input[5:7]):
        return
    kept = list(node.input[:5])
    while kept[-1] == "":
        kept.pop()
    del node.input[:]
    node.input.extend(kept)


def _is_forward(node: onnx.NodeProto) -> bool:
    """One direction, from the first step to the last; steps first, as is ONNX's default."""
    told = {attribute.name: attribute for attribute in node.attribute}
    return not ("direction" in told and told["direction"].s != b"forward") and not (
        "layout" in told and told["layout"].i != 0
    )


def _merge_direction(node: onnx.NodeProto, graph: _Graph) -> None:
    """Y [steps, 1, batch, hidden] -> [steps, batch, hidden] by Squeeze; and only its last step, where that is read."""
    every = node.output[0]
    for turned in graph.readers(every, "Transpose"):  # [steps, batch, 1, hidden]
        if _permutation(turned) != [0, 2, 1, 3]:
            continue
        steps, _, _, hidden = graph.sizes.get(turned.output[0], (None,) * 4)
        for merged in graph.readers(turned.output[0], "Reshape"):
            # [steps, batch, hidden] -> [batch, steps, hidden]
            batch_first = [
                reader for reader in graph.readers(merged.output[0], "Transpose") if _permutation(reader) == [1, 0, 2]
            ]
            # The merged shape is computed, so inference may know it only of what is turned.
            known = [graph.sizes.get(merged.output[0], ())]
            known += [(sizes[1], sizes[0], sizes[2]) for sizes in _sizes_of(batch_first, graph) if len(sizes) == 3]
            # The batch is what is left over, so these sizes prove that only the axis of 1 goes.
            if steps is None or hidden is None or not any(sizes[::2] == (steps, hidden) for sizes in known):
                continue
            _become_squeeze(merged, every, graph.axes("axis.direction", 1))
            for turned_back in batch_first:
                _read_last_state(node, turned_back, steps, graph)


def _sizes_of(nodes: list[onnx.NodeProto], graph: _Graph) -> list[Sizes]:
    return [graph.sizes.get(node.output[0], ()) for node in nodes]


def _read_last_state(node: onnx.NodeProto, batch_first: onnx.NodeProto, steps: int, graph: _Graph) -> None:
    """Y_h [1, batch, hidden] is the last step of all."""
    for picked in graph.readers(batch_first.output[0], "Gather"):
        axis = next((attribute.i for attribute in picked.attribute if attribute.name == "axis"), 0)
        place = graph.constants.get(picked.input[1])
        if axis != 1 or place is None or place.dims or int(numpy_helper.to_array(place)) not in (-1, steps - 1):
            continue
        if len(node.output) == 1:
            node.output.append("")
        node.output[1] = node.output[1] or f"{node.output[0]}.last"
        _become_squeeze(picked, node.output[1], graph.axes("axis.first", 0))


def _become_squeeze(node: onnx.NodeProto, value: str, axes: str) -> None:
    node.op_type = "Squeeze"
    node.ClearField("attribute")
    del node.input[:]
    node.input.extend([value, axes])


def _permutation(transpose: onnx.NodeProto) -> list[int]:
    return [int(place) for attribute in transpose.attribute if attribute.name == "perm" for place in attribute.ints]
