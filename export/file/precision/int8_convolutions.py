"""int8 for networks of convolutions: static quantization (QDQ) by ONNX Runtime's own quantizer.

Weights get a scale for each output channel, activations one for each tensor, from the smallest and largest value that
images of the training split bring about. A fixed scale is what makes an answer independent of its batch. The dense
layers at the end stay in FP32: they are a thousandth of the work, and nothing after them evens out their rounding. So
does a convolution of a single channel, the first one: ONNX Runtime computes it much faster in FP32 than in 8 bits, as
its profiler says (studies/exported/profile.py).
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from hangtag.export.file.precision.quantizer_output import quiet
from hangtag.training.data.fashion_mnist import Images

OPERATORS = ("Conv", "MaxPool", "Relu")
"""What is computed in 8 bits: convolutions, and what lies between them, so that nothing has to go to FP32 and back."""

BATCH = 32


def quantize_convolutions(model: onnx.ModelProto, calibration: Images) -> onnx.ModelProto:
    """The network with every convolution in 8 bits. calibration: uint8 images [n, height, width]."""
    (image,) = model.graph.input
    with tempfile.TemporaryDirectory() as folder, quiet():
        original, prepared, quantized = (Path(folder, f"{name}.onnx") for name in ("original", "prepared", "quantized"))
        original.write_bytes(_ordered(model).SerializeToString())  # given in memory, it would lose its constants
        # Folds and fuses as the runtime would, so that scales are given only to tensors that still exist then.
        quant_pre_process(original, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            _Images(image.name, calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            nodes_to_exclude=sorted(_in_fp32(onnx.load(prepared))),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(quantized)


def _ordered(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with ReLU and pooling in the order that suits: they may change places, for the largest of what
    is left is what is left of the largest.

    In 8 bits ReLU comes first: the quantizer makes it and the convolution one, and no bit is spent on what is negative.
    In FP32 pooling comes first: ONNX Runtime would else draw the quantization behind it up before it, and pools 8-bit
    numbers in FP32's layout slowly.
    """
    ordered = onnx.ModelProto()
    ordered.CopyFrom(model)
    in_fp32 = _in_fp32(ordered)
    made = {node.output[0]: node for node in ordered.graph.node}
    readers = Counter(name for node in ordered.graph.node for name in node.input)
    for second in ordered.graph.node:
        first = made.get(second.input[0]) if second.op_type in ("Relu", "MaxPool") else None
        if first is None or readers[first.output[0]] > 1 or {first.op_type, second.op_type} != {"Relu", "MaxPool"}:
            continue
        if (first.op_type == "Relu") == (first.name in in_fp32):
            first.op_type, second.op_type = second.op_type, first.op_type
            attributes = onnx.NodeProto(attribute=[*first.attribute, *second.attribute]).attribute  # pooling's
            for node in (first, second):
                node.ClearField("attribute")
                if node.op_type == "MaxPool":
                    node.attribute.extend(attributes)
    ordered.graph.ClearField("value_info")  # the shapes in between are others now, and are inferred again
    return ordered


def _in_fp32(model: onnx.ModelProto) -> set[str]:
    """The names of the convolutions that read one channel, and of what follows them before the next convolution."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    kept: set[str] = set()
    values: set[str] = set()
    for node in model.graph.node:  # in the order of computation
        of_one_channel = node.op_type == "Conv" and shapes.get(node.input[1], [0, 0])[1] == 1
        if of_one_channel or (node.op_type in ("Relu", "MaxPool") and node.input[0] in values):
            kept.add(node.name)
            values.update(node.output)
    return kept


class _Images(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Hands out batches of images, then None."""

    def __init__(self, name: str, images: Images) -> None:
        self._batches: Iterator[dict[str, Any]] = (
            {name: np.ascontiguousarray(images[start : start + BATCH])} for start in range(0, len(images), BATCH)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
