"""Which converter makes which precision, and what the outcome must look like."""

from collections.abc import Callable

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from hangtag.export.errors import ExportError
from hangtag.export.file.onnx_model import nodes, operators
from hangtag.export.file.precision.int8_convolutions import quantize_convolutions
from hangtag.export.file.precision.int8_lstms import quantize_recurrences
from hangtag.training.data.fashion_mnist import Images

PRECISIONS = ("fp32", "fp16", "int8")
Converter = Callable[[onnx.ModelProto, Images], onnx.ModelProto]


def model_name(network: str, precision: str) -> str:
    """What a network is called in the repository: ``cnn``, and ``cnn-int8`` where it is not in FP32."""
    return network if precision == "fp32" else f"{network}-{precision}"


def convert(model: onnx.ModelProto, precision: str, calibration: Images) -> onnx.ModelProto:
    """An FP32 network in another precision: the same inputs, outputs and metadata.

    calibration: uint8 images [n, height, width] of the training split, which tell int8 how large activations get.
    Raises ExportError for a network that this precision would not change, and for one that cannot be quantized.
    """
    if precision == "fp32":
        return model
    converted = _to_fp16(model) if precision == "fp16" else _to_int8(model, calibration)
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    _keep_opsets_in_use(converted)
    converted.producer_name, converted.producer_version = model.producer_name, model.producer_version
    return converted


def _to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and arithmetic in half precision; inputs and outputs stay as they are, so no client notices."""
    original = onnx.ModelProto()
    original.CopyFrom(model)  # the converter changes what it is given
    converted: onnx.ModelProto = convert_float_to_float16(original, keep_io_types=True)
    return converted


def _to_int8(model: onnx.ModelProto, calibration: Images) -> onnx.ModelProto:
    found = operators(model)
    try:
        if found["LSTM"]:
            return quantize_recurrences(model)
        if found["Conv"]:
            return quantize_convolutions(model, calibration)
    except ExportError:
        raise
    except Exception as error:  # the quantizer asserts where weights or activations are no finite numbers
        raise ExportError(
            f"ONNX Runtime's quantizer fails on this network ({type(error).__name__}: {' '.join(str(error).split())}). "
            "Where --precision fp32 is refused too, its training went wrong. Nothing was published."
        ) from error
    raise ExportError(
        f"int8 is for networks with convolutions or LSTMs; this one has only {', '.join(sorted(found))}. "
        "Export it with --precision fp32 or fp16."
    )


def _keep_opsets_in_use(model: onnx.ModelProto) -> None:
    """The quantizer declares all that it knows; another runtime would look for what no node needs."""
    used = {node.domain for node in nodes(model.graph)} | {""}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    model.ClearField("opset_import")
    model.opset_import.extend(kept)
