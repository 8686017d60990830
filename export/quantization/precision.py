"""Choose the converter for a precision and a network, and restore what the converters drop."""

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from hangtag.export.errors import ExportError
from hangtag.export.file.onnx_model import metadata, nodes, operators
from hangtag.export.quantization.converters import ConversionError, converting
from hangtag.export.quantization.int8_convolutions import quantize_convolutions
from hangtag.export.quantization.int8_lstms import quantize_lstms
from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.dataset import Images

PRECISIONS = ("fp32", "fp16", "int8")


def model_name(network: str, precision: str) -> str:
    """The name of a network's model in the repository: ``cnn`` in FP32, ``cnn-int8`` in another precision."""
    return network if precision == "fp32" else f"{network}-{precision}"


def convert(model: onnx.ModelProto, precision: str, calibration: Images) -> onnx.ModelProto:
    """Convert an FP32 network to another precision. Inputs, outputs and metadata stay; ``model`` is not changed.

    Args:
        precision: one of PRECISIONS.
        calibration: uint8 images [n, height, width] of the training split, from which int8 learns how large activations
            get.

    Raises:
        ExportError: this precision would change nothing in the network, or the network cannot be quantized.
    """
    if precision == "fp32":
        return model
    converted = _to_fp16(model) if precision == "fp16" else _to_int8(model, calibration)
    keep_origin(converted, model)
    return converted


def keep_origin(converted: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Give a converted model, in place, the metadata and the producer that the converters drop."""
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    _drop_unused_opsets(converted)
    converted.producer_name, converted.producer_version = model.producer_name, model.producer_version


def _to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert weights and arithmetic to half precision; inputs and outputs keep their types."""
    original = onnx.ModelProto()
    original.CopyFrom(model)  # the converter changes its argument
    converted: onnx.ModelProto = convert_float_to_float16(original, keep_io_types=True)
    return converted


def _to_int8(model: onnx.ModelProto, calibration: Images) -> onnx.ModelProto:
    counts = operators(model)
    try:
        with converting():
            if counts["LSTM"]:
                return quantize_lstms(model, _pixel_bounds(model))
            if counts["Conv"]:
                return quantize_convolutions(model, calibration)
    except ConversionError as error:  # the quantizer asserts that weights and activations are finite
        raise ExportError(
            f"{error} Where --precision fp32 is refused too, its training went wrong. Nothing was published."
        ) from error
    raise ExportError(
        f"int8 is for networks with convolutions or LSTMs; this one has only {', '.join(sorted(counts))}. "
        "Export it with --precision fp32 or fp16."
    )


def _pixel_bounds(model: onnx.ModelProto) -> tuple[float, float]:
    """The smallest and the largest value of a normalised pixel, by the file's ``hangtag.image``."""
    described = metadata(model).get("image")
    if described is None:  # of an earlier release, which left pixels in [0, 1]
        return 0.0, 1.0
    image = ImageSpec.parse(described)
    channels = [(mean, std) for mean in image.mean for std in image.std]
    return min(-mean / std for mean, std in channels), max((1 - mean) / std for mean, std in channels)


def _drop_unused_opsets(model: onnx.ModelProto) -> None:
    """The quantizer declares every opset it knows; another runtime would refuse those that it lacks."""
    used = {node.domain for node in nodes(model.graph)} | {""}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    model.ClearField("opset_import")
    model.opset_import.extend(opsets)
