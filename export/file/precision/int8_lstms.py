"""int8 for LSTMs: dynamic quantization by ONNX Runtime's own quantizer, with its scales pinned.

ONNX Runtime's DynamicQuantizeLSTM reads the scale of what it multiplies, the input and then the last hidden state, off
the smallest and largest value in the *whole batch*. So an image would be answered differently depending on who else is
in its batch: of 2,000 test images 6 got another label from lstm2. Here both ranges are pinned instead, by adding values
to them that no weight listens to:

- The input gets features that are always at its bounds: 1 for pixels in [0, 1] (whose 8-bit scale is then 1/255, and
  their quantization exact), -1 and 1 for the hidden states of an LSTM below.
- The hidden state gets two units whose gates are saturated: their cells count 1, 2, 3, ... and -1, -2, -3, ..., so
  their outputs are tanh(t) and -tanh(t). No unit can be further out: a cell changes by less than 1 each step.

All scales are then constants, and an answer is the same, bit for bit, alone or in any batch.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxscript import optimizer

from hangtag.export.errors import ExportError
from hangtag.export.file.onnx_model import operators
from hangtag.export.file.precision.quantizer_output import quiet

_SATURATED = 20.0
"""Added to a gate, before its sigmoid or tanh: 1 up to 2e-9, below half a step of FP32's."""
_PIXELS, _HIDDEN = (1.0,), (-1.0, 1.0)
_UNITS = 2

Array = npt.NDArray[Any]


def quantize_recurrences(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with the weights of every LSTM in 8 bits, a scale for each gate of each unit.

    Its first LSTM must read values in [0, 1], each other one the outputs of an LSTM. The dense layer stays in FP32.
    """
    pinned = pin_ranges(model)
    with tempfile.TemporaryDirectory() as folder, quiet():
        quantized = Path(folder, "quantized.onnx")
        quantize_dynamic(
            pinned, quantized, op_types_to_quantize=["LSTM"], per_channel=True, weight_type=QuantType.QInt8
        )
        result = onnx.load(quantized)
    found = operators(result)
    if found["LSTM"] or found["DynamicQuantizeLSTM"] != operators(model)["LSTM"]:
        raise ExportError(
            f"ONNX Runtime's quantizer left {found['LSTM']} LSTMs as they were; their weights must be initializers. "
            "This is a bug of the export."
        )
    return result


def pin_ranges(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, with the ranges of every LSTM's input and hidden state made constant; still in FP32."""
    pinned = onnx.ModelProto()
    pinned.CopyFrom(model)
    graph = pinned.graph
    nodes: list[onnx.NodeProto] = []
    bounds: tuple[float, ...] = _PIXELS
    for node in graph.node:
        if node.op_type == "LSTM":
            nodes += _pin(graph, node, bounds)
            bounds = _HIDDEN
        else:
            nodes.append(node)
    kept = onnx.GraphProto(node=nodes)  # copied before the field is emptied
    graph.ClearField("node")
    graph.node.extend(kept.node)
    optimizer.remove_unused_nodes(pinned)
    return pinned


def _pin(graph: onnx.GraphProto, node: onnx.NodeProto, bounds: tuple[float, ...]) -> list[onnx.NodeProto]:
    """The nodes to put in an LSTM's place: its input padded, itself with two more units, its outputs cut off again."""
    name = next(filter(None, node.output))
    values = {tensor.name: tensor for tensor in graph.initializer}
    kernel, recurrent, bias = (numpy_helper.to_array(values[part]) for part in node.input[1:4])
    inputs, hidden = kernel.shape[2], recurrent.shape[2]

    def constant(suffix: str, value: Array) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{name}.{suffix}"))
        return f"{name}.{suffix}"

    padded, made = node.input[0], []
    for place, bound in enumerate(bounds):
        pads = constant(f"pads{place}", np.array([0, 0, 0, 0, 0, 1], np.int64))  # one more at the end of the last axis
        value = constant(f"bound{place}", np.array(bound, np.float32))
        made.append(helper.make_node("Pad", [padded, pads, value], [f"{name}.in{place}"]))
        padded = f"{name}.in{place}"

    wider = onnx.NodeProto()
    wider.CopyFrom(node)
    del wider.input[:]
    wider.input.extend(
        [
            padded,
            constant("kernel", _grown(kernel, (4, hidden, inputs), (_UNITS, len(bounds)))),
            constant("recurrent", _grown(recurrent, (4, hidden, hidden), (_UNITS, _UNITS))),
            constant("bias", _saturated(bias, hidden)),
        ]
    )  # the initial states, zeros, are the default
    (size,) = [attribute for attribute in wider.attribute if attribute.name == "hidden_size"]
    size.i = hidden + _UNITS
    cut = [constant(part, np.array([value], np.int64)) for part, value in (("from", 0), ("to", hidden), ("axis", -1))]
    slices = []
    for place, output in enumerate(node.output):  # all steps and the last one, where they are read
        if output:
            wider.output[place] = f"{output}.all"
            slices.append(helper.make_node("Slice", [f"{output}.all", *cut], [output]))
    return [*made, wider, *slices]


def _grown(weights: Array, shape: tuple[int, int, int], more: tuple[int, int]) -> Array:
    """Weights [1, 4 * units, from], seen as this shape, with zeros for more units and for more that they read."""
    grown = np.pad(weights.reshape(shape), ((0, 0), (0, more[0]), (0, more[1])))
    return grown.reshape(1, -1, grown.shape[2])


def _saturated(bias: Array, hidden: int) -> Array:
    """A bias [1, 8 * hidden] (gates i, o, f, c, of the input and of the recurrence) with the two units' own."""
    grown = np.pad(bias.reshape(8, hidden), ((0, 0), (0, _UNITS)))
    grown[0:3, hidden:] = _SATURATED
    grown[3, hidden:] = _SATURATED, -_SATURATED
    return grown.reshape(1, -1)
