"""Choose the converter for a precision and a network, and restore the metadata that the converters drop."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from hangtag.export.errors import ExportError
from hangtag.export.file.onnx_model import nodes, operators
from hangtag.export.network_arrays import batches
from hangtag.export.quantization.converters import Int8Converter, converting
from hangtag.export.quantization.int8_lstms import quantize_lstms
from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.dataset import Images

PRECISIONS = ("fp32", "fp16", "int8")
_LAYERS, _PASSING = ("Conv",), ("MaxPool", "Relu")
"""The operators to compute in 8 bits: convolutions, and operators between them, to avoid conversions to FP32."""
_BATCH = 32


def model_name(name: str, precision: str) -> str:
    """Return a model's name in the repository, such as ``cnn`` in FP32 and ``cnn-int8`` in int8.

    ``name`` may already have the suffix.

    Example:
        >>> model_name("cnn", "int8"), model_name("cnn-int8", "int8")
        ('cnn-int8', 'cnn-int8')
    """
    suffix = "" if precision == "fp32" else f"-{precision}"
    return f"{name.removesuffix(suffix)}{suffix}"


def convert(model: onnx.ModelProto, precision: str, calibration: Images, image: ImageSpec) -> onnx.ModelProto:
    """Convert an FP32 network to another precision, with the same inputs and outputs. ``model`` is not changed.

    Args:
        precision: one of PRECISIONS.
        calibration: uint8 images [n, height, width] of the training split, which determine int8's range of activations.
        image: the image description; its mean and std determine the range of the first LSTM's input.

    Raises:
        ExportError: the network has no layer for this precision, or cannot be quantized.
    """
    if precision == "fp32":
        return model
    converted = _to_fp16(model) if precision == "fp16" else _to_int8(model, calibration, image)
    keep_origin(converted, model)
    return converted


def keep_origin(converted: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Restore, in place, the metadata and the producer that the converters drop.

    Opsets that no node uses are dropped: the quantizer declares many, and other runtimes refuse unknown opsets.
    """
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    used = {node.domain for node in nodes(converted.graph)} | {""}
    opsets = [opset for opset in converted.opset_import if opset.domain in used]
    converted.ClearField("opset_import")
    converted.opset_import.extend(opsets)
    converted.producer_name, converted.producer_version = model.producer_name, model.producer_version


def _to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert weights and arithmetic to half precision; inputs and outputs keep their types."""
    original = onnx.ModelProto()
    original.CopyFrom(model)  # the converter changes its argument
    converted: onnx.ModelProto = convert_float_to_float16(original, keep_io_types=True)
    return converted


def _to_int8(model: onnx.ModelProto, calibration: Images, image: ImageSpec) -> onnx.ModelProto:
    counts = operators(model)
    with converting():
        if counts["LSTM"]:
            return quantize_lstms(model, image)
        if counts["Conv"]:
            return _quantize_convolutions(model, calibration)
    raise ExportError(
        f"int8 is for networks with convolutions or LSTMs; this one has only {', '.join(sorted(counts))}. "
        "Export it with --precision fp32 or fp16."
    )


def _quantize_convolutions(model: onnx.ModelProto, calibration: Images) -> onnx.ModelProto:
    """Quantize convolutions to 8 bits with ONNX Runtime's static quantizer (QDQ).

    Weights have a scale for each output channel, and activations have a scale for each tensor. Images of the training
    split determine the activations' ranges. Fixed scales make answers independent of the batch. Two kinds of layers
    stay in FP32. The dense layers at the end do only a thousandth of the work, and no later layer averages out their
    rounding errors. A first convolution with a single input channel is much faster in FP32 than in 8 bits, as ONNX
    Runtime's profiler shows (studies/exported/README.md).

    Args:
        calibration: uint8 images [n, height, width], whose activations determine the scales.
    """
    (image,) = model.graph.input
    feeds = ({image.name: np.ascontiguousarray(batch)} for batch in batches(calibration, _BATCH))
    with tempfile.TemporaryDirectory() as folder:
        converter = Int8Converter(_reorder_pooling(model), feeds, Path(folder), _LAYERS, _PASSING)
        return converter.convert(sorted(_fp32_nodes(converter.model)))


def _reorder_pooling(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put ReLU and max pooling into the faster order. They commute, because max(relu(x)) == relu(max(x)).

    In 8 bits, ReLU comes first, because the quantizer then fuses it with the convolution and spends no bit on negative
    values. In FP32, pooling comes first. If ReLU came first, ONNX Runtime would quantize ReLU's output, and would pool
    8-bit values in the memory layout of FP32, which is slow.
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
            # ReLU has no attributes
            pooling = onnx.NodeProto(attribute=[*first.attribute, *second.attribute]).attribute
            for node in (first, second):
                node.ClearField("attribute")
                if node.op_type == "MaxPool":
                    node.attribute.extend(pooling)
    ordered.graph.ClearField("value_info")  # the shapes between ReLU and pooling are inferred again
    return ordered


def _fp32_nodes(model: onnx.ModelProto) -> set[str]:
    """Return the names of the convolutions that read one channel, and of the nodes up to the next convolution."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    names: set[str] = set()
    outputs: set[str] = set()
    for node in model.graph.node:  # in the order of computation
        is_single_channel = node.op_type == "Conv" and shapes.get(node.input[1], [0, 0])[1] == 1
        if is_single_channel or (node.op_type in ("Relu", "MaxPool") and node.input[0] in outputs):
            names.add(node.name)
            outputs.update(node.output)
    return names
