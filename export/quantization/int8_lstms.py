"""Convert LSTMs to int8 with ONNX Runtime's dynamic quantizer, but with constant scales.

ONNX Runtime's DynamicQuantizeLSTM derives the scales of the input and of the last hidden state from the smallest and
the largest value in the *whole batch*. So an image's answer would depend on the rest of its batch. In a test of lstm2,
6 of 2,000 images got different labels in different batches. To make the ranges of input and hidden state constant, this
module adds features and hidden units that hold the bounds of the range. Their weights are 0, so no result changes.

- The added features are the smallest and the largest value that the input can have. For pixels in [0, 1], one feature
  with the value 1 is enough, because the quantizer includes 0 in every range. The 8-bit scale of these pixels is then
  1/255, so their quantization is exact. For an LSTM that reads another LSTM's hidden states, the features are -1 and 1.
- The hidden state gets two units with saturated gates. At step t the cells of these units hold t and -t, so their
  outputs are tanh(t) and -tanh(t). Other units' outputs cannot exceed these two, since a cell changes by less than 1 in
  each step.

All scales are then constants, so an image gets the same answer, bit for bit, alone and in any batch.

The scales of the weights are chosen so that every processor computes the same sums. A processor with AVX2 and without
8-bit dot products (AVX-512 VNNI, AVX-VNNI) multiplies activations, 0 to 255, with weights, -127 to 127, and adds the
products of two neighbouring inputs in 16 bits. A sum beyond 32,767 saturates without notice, so the file would give
other answers on such a processor. ONNX Runtime's ``reduce_range`` avoids this by quantizing all weights to 7 bits, but
that changes more than 1 % of the answers of ``lstm``. This module gives a column a larger scale only if two
neighbouring weights of one sign would add up to more than 127.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxscript import optimizer

from hangtag.export.errors import ExportError
from hangtag.export.file.onnx_model import operators
from hangtag.export.network_arrays import Array
from hangtag.export.quantization.converters import converting
from hangtag.serving.image_spec import ImageSpec

_SATURATED = 20.0
"""The bias of a saturated gate. The sigmoid or tanh of this bias differs from 1 by at most 2e-9, less than half a step
of FP32."""
_HIDDEN_BOUNDS = (-1.0, 1.0)
_PINNING_UNITS = 2
_LARGEST = 127
_LARGEST_PAIR = 127.0
"""The largest sum of two neighbouring weights' magnitudes. Rounding may add 1/2 to each magnitude, and 255 * (127 + 1)
still fits into 16 bits."""
# An entry for ONNX's W and one for R: the input indices of the 8-bit weights, their scales, and the FP32 weights.
_PLACES = ((1, 8, 1), (2, 10, 2))


def quantize_lstms(model: onnx.ModelProto, image: ImageSpec) -> onnx.ModelProto:
    """Quantize the weights of every LSTM to 8 bits, with one scale per gate of each unit. Dense layers stay in FP32.

    Args:
        model: a network whose first LSTM reads pixels, and whose other LSTMs read the outputs of an LSTM.
        image: the image description; its mean and std determine the range of the first LSTM's input.

    Raises:
        ExportError: the quantizer left an LSTM unchanged.
    """
    pinned = pin_ranges(model, image)
    with tempfile.TemporaryDirectory() as folder, converting():
        quantized = Path(folder, "quantized.onnx")
        quantize_dynamic(
            pinned, quantized, op_types_to_quantize=["LSTM"], per_channel=True, weight_type=QuantType.QInt8
        )
        result = onnx.load(quantized)
    counts = operators(result)
    if counts["LSTM"] or counts["DynamicQuantizeLSTM"] != operators(model)["LSTM"]:
        raise ExportError(
            f"ONNX Runtime's quantizer left {counts['LSTM']} LSTMs as they were; their weights must be initializers. "
            "This is a bug of the export."
        )
    _prevent_saturation(result, pinned)
    return result


def pin_ranges(model: onnx.ModelProto, image: ImageSpec) -> onnx.ModelProto:
    """Return the same network, still in FP32, extended so that all quantization ranges of its LSTMs are constant."""
    pinned = onnx.ModelProto()
    pinned.CopyFrom(model)
    graph = pinned.graph
    nodes: list[onnx.NodeProto] = []
    channels = [(mean, std) for mean in image.mean for std in image.std]
    pixels = min(-mean / std for mean, std in channels), max((1 - mean) / std for mean, std in channels)
    bounds = tuple(value for value in pixels if value != 0)  # the quantizer includes 0 in every range
    for node in graph.node:
        if node.op_type == "LSTM":
            nodes += _pin(graph, node, bounds)
            bounds = _HIDDEN_BOUNDS
        else:
            nodes.append(node)
    copied = onnx.GraphProto(node=nodes)  # copied before the field is emptied
    graph.ClearField("node")
    graph.node.extend(copied.node)
    optimizer.remove_unused_nodes(pinned)
    return pinned


def _pin(graph: onnx.GraphProto, node: onnx.NodeProto, bounds: tuple[float, ...]) -> list[onnx.NodeProto]:
    """Return the nodes that replace an LSTM: an LSTM with two more units, between Pad and Slice nodes."""
    name = next(filter(None, node.output))
    values = {tensor.name: tensor for tensor in graph.initializer}
    kernel, recurrent, bias = (numpy_helper.to_array(values[part]) for part in node.input[1:4])
    inputs, hidden = kernel.shape[2], recurrent.shape[2]

    def constant(suffix: str, value: Array) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{name}.{suffix}"))
        return f"{name}.{suffix}"

    padded, pads = node.input[0], []
    for place, bound in enumerate(bounds):
        # append one value at the end of the last axis
        amounts = constant(f"pads{place}", np.array([0, 0, 0, 0, 0, 1], np.int64))
        value = constant(f"bound{place}", np.array(bound, np.float32))
        pads.append(helper.make_node("Pad", [padded, amounts, value], [f"{name}.in{place}"]))
        padded = f"{name}.in{place}"

    wider = onnx.NodeProto()
    wider.CopyFrom(node)
    del wider.input[:]
    wider.input.extend(
        [
            padded,
            constant("kernel", _padded_weights(kernel, (4, hidden, inputs), (_PINNING_UNITS, len(bounds)))),
            constant("recurrent", _padded_weights(recurrent, (4, hidden, hidden), (_PINNING_UNITS, _PINNING_UNITS))),
            constant("bias", _padded_bias(bias, hidden)),
        ]
    )  # the initial states default to zeros
    (size,) = [attribute for attribute in wider.attribute if attribute.name == "hidden_size"]
    size.i = hidden + _PINNING_UNITS
    cut = [constant(part, np.array([value], np.int64)) for part, value in (("from", 0), ("to", hidden), ("axis", -1))]
    slices = []
    for place, output in enumerate(node.output):  # the outputs of all steps and of the last step; empty if unused
        if output:
            wider.output[place] = f"{output}.all"
            slices.append(helper.make_node("Slice", [f"{output}.all", *cut], [output]))
    return [*pads, wider, *slices]


def _padded_weights(weights: Array, shape: tuple[int, int, int], more: tuple[int, int]) -> Array:
    """Reshape weights [1, 4 * units, inputs] to ``shape``, and add zeros for ``more`` units and inputs."""
    padded = np.pad(weights.reshape(shape), ((0, 0), (0, more[0]), (0, more[1])))
    return padded.reshape(1, -1, padded.shape[2])


def _padded_bias(bias: Array, hidden: int) -> Array:
    """Add the values for the two additional units to a bias [1, 8 * hidden]: gates i, o, f, c of W, then of R."""
    padded = np.pad(bias.reshape(8, hidden), ((0, 0), (0, _PINNING_UNITS)))
    padded[0:3, hidden:] = _SATURATED
    padded[3, hidden:] = _SATURATED, -_SATURATED
    return padded.reshape(1, -1)


def _prevent_saturation(quantized: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Quantize the weights of every DynamicQuantizeLSTM again, in place, with scales that prevent saturation.

    Args:
        quantized: the output of ONNX Runtime's quantizer for ``original``, with one scale for each column.
        original: the same network in FP32, with its LSTMs in the same order.
    """
    weights = {tensor.name: tensor for tensor in original.graph.initializer}
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    lstms = [node for node in original.graph.node if node.op_type == "LSTM"]
    for lstm, node in zip(
        lstms, (node for node in quantized.graph.node if node.op_type == "DynamicQuantizeLSTM"), strict=True
    ):
        for place, scale_place, original_place in _PLACES:
            # LSTM holds [1, 4 * units, inputs], DynamicQuantizeLSTM [1, inputs, 4 * units].
            values, scales = quantize(numpy_helper.to_array(weights[lstm.input[original_place]])[0].T)
            for name, array in ((node.input[place], values[None]), (node.input[scale_place], scales)):
                array = array.reshape(tuple(tensors[name].dims))
                tensors[name].CopyFrom(numpy_helper.from_array(array, name))


def quantize(weights: Array) -> tuple[Array, Array]:
    """Quantize a matrix to 8 bits, symmetrically, with a scale for each column.

    Args:
        weights: FP32 [inputs, columns].

    Returns:
        The values, INT8 [inputs, columns], and the scales, FP32 [columns]. Their product is close to ``weights``.
    """
    pairs = np.pad(weights, ((0, len(weights) % 2), (0, 0))).reshape(-1, 2, weights.shape[1])
    pair = np.maximum(*(np.clip(sign * pairs, 0, None).sum(axis=1).max(axis=0) for sign in (1, -1)))
    scales = np.maximum(np.abs(weights).max(axis=0) / _LARGEST, pair / _LARGEST_PAIR)
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales
