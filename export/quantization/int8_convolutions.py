"""Convert convolutional networks to int8: static quantization (QDQ) by ONNX Runtime's own quantizer.

Weights get one scale per output channel, activations one per tensor, from the smallest and the largest value that
images of the training split cause. A fixed scale makes an answer independent of its batch. Weights get 7 bits, so that
processors that add products in 16 bits compute the same sums (see int8_lstms). Two parts stay in FP32: the
dense layers at the end, since they are a thousandth of the work and nothing after them averages out their rounding; and
a convolution of a single channel, the first one, since ONNX Runtime computes it much faster in FP32 than in 8 bits, by
its own profiler (studies/exported/profile.py).
"""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx

from hangtag.export.arrays import batches
from hangtag.export.quantization.converters import Int8Converter
from hangtag.training.data.dataset import Images

LAYERS, PASSING = ("Conv",), ("MaxPool", "Relu")
"""Computed in 8 bits: convolutions and what lies between them, so that no value is converted to FP32 and back."""

BATCH = 32


def quantize_convolutions(model: onnx.ModelProto, calibration: Images) -> onnx.ModelProto:
    """Quantize every convolution, except those of a single channel, to 8 bits.

    Args:
        calibration: uint8 images [n, height, width], whose activations set the scales.
    """
    (image,) = model.graph.input
    feeds = ({image.name: np.ascontiguousarray(batch)} for batch in batches(calibration, BATCH))
    with tempfile.TemporaryDirectory() as folder:
        converter = Int8Converter(_reorder_pooling(model), feeds, Path(folder), LAYERS, PASSING)
        return converter.convert(sorted(_fp32_nodes(converter.model)))


def _reorder_pooling(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put ReLU and max pooling into the faster order: max(relu(x)) == relu(max(x)), so they commute.

    In 8 bits ReLU comes first: the quantizer fuses it with the convolution, and no bit is spent on negative values. In
    FP32 pooling comes first: otherwise ONNX Runtime would move the quantization in front of it, and pooling 8-bit
    numbers in FP32's layout is slow.
    """
    ordered = onnx.ModelProto()
    ordered.CopyFrom(model)
    fp32_nodes = _fp32_nodes(ordered)
    producers = {node.output[0]: node for node in ordered.graph.node}
    reader_counts = Counter(name for node in ordered.graph.node for name in node.input)
    for second in ordered.graph.node:
        first = producers.get(second.input[0]) if second.op_type in ("Relu", "MaxPool") else None
        if (
            first is None
            or reader_counts[first.output[0]] > 1
            or {first.op_type, second.op_type} != {"Relu", "MaxPool"}
        ):
            continue
        if (first.op_type == "Relu") == (first.name in fp32_nodes):
            first.op_type, second.op_type = second.op_type, first.op_type
            pooling = onnx.NodeProto(attribute=[*first.attribute, *second.attribute]).attribute  # ReLU has none
            for node in (first, second):
                node.ClearField("attribute")
                if node.op_type == "MaxPool":
                    node.attribute.extend(pooling)
    ordered.graph.ClearField("value_info")  # the shapes between the two have changed, and are inferred again
    return ordered


def _fp32_nodes(model: onnx.ModelProto) -> set[str]:
    """The names of the convolutions that read one channel, and of what follows them before the next convolution."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    names: set[str] = set()
    outputs: set[str] = set()
    for node in model.graph.node:  # in the order of computation
        is_single_channel = node.op_type == "Conv" and shapes.get(node.input[1], [0, 0])[1] == 1
        if is_single_channel or (node.op_type in ("Relu", "MaxPool") and node.input[0] in outputs):
            names.add(node.name)
            outputs.update(node.output)
    return names
