"""Convert any network to int8 or fp16, with some layers in FP32. A converter prepares once and converts many times."""

import io
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QDQQuantizer, QuantType, create_calibrator
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from hangtag.export.errors import ExportError
from hangtag.export.quantization.samples import Feed

LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators to compute in 8 bits, if their weights are constants."""
PASSING = ("Relu", "Clip", "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
"""Operators to compute in 8 bits between two LAYERS, so that no value is converted to FP32 and back."""
_OPSET = 13
"""The first opset in which weights may have a scale for each channel."""
_AT_A_TIME = 256
_LARGEST = 65_504 / 2
"""Half of the largest number of half precision, because other samples may have larger values than the observed ones."""


class ConversionError(ExportError):
    """ONNX Runtime's tools fail on a network."""


class Int8Converter:
    """ONNX Runtime's static quantizer (QDQ), with fixed scales, so that answers do not depend on the rest of a batch.

    Weights get 7 bits and a scale for each output channel (``reduce_range``). Processors without 8-bit dot products,
    which add two products in 16 bits, then compute the same sums as processors with 8-bit dot products.
    """

    too_large: Sequence[onnx.NodeProto] = ()
    """Layers that stay in FP32 in any case."""

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration: Iterable[Feed],
        folder: Path,
        layers: Sequence[str] = LAYERS,
        passing: Sequence[str] = PASSING,
    ) -> None:
        """
        Args:
            calibration: samples whose activations determine the scales.
            folder: for temporary files.
            layers: operators to compute in 8 bits, if their weights are constants.
            passing: operators to compute in 8 bits between two of ``layers``.

        Raises:
            ExportError: the network has no layer that can be quantized, or ONNX Runtime's quantizer fails on the
                network.
        """
        original, prepared = folder / "simple.onnx", folder / "prepared.onnx"
        with converting():
            onnx.save(_with_opset(model), original)
            # Folds and fuses as the runtime will, so that only tensors that still exist afterwards get scales.
            quant_pre_process(original, prepared, skip_symbolic_shape=True)
            self.model = onnx.load(prepared)
            _name_nodes(self.model)
            _flatten_biases(self.model)
            onnx.save(self.model, prepared)
        constants = {tensor.name for tensor in self.model.graph.initializer}
        self.layers: Sequence[onnx.NodeProto] = [
            node for node in self.model.graph.node if node.op_type in layers and node.input[1] in constants
        ]
        """The layers that can be converted, in the order of computation, with unique names."""
        if not self.layers:
            raise ExportError(
                f"int8 is for {', '.join(LAYERS)} with constant weights in the main graph; this file has none there. "
                "Its other layers, including LSTMs and layers in branches and loops, stay in FP32."
            )
        with converting():
            self._operators = [*layers, *passing]
            calibrator = create_calibrator(
                prepared, self._operators, augmented_model_path=str(folder / "calibration.onnx")
            )
            calibrator.collect_data(_Reader(calibration))
            self._ranges = calibrator.compute_data()
        names = {node.name for node in self.layers}
        self._excluded = [
            node.name for node in self.model.graph.node if node.op_type in layers and node.name not in names
        ]

    def convert(self, in_fp32: Collection[str]) -> onnx.ModelProto:
        """Quantize all layers except those with these names. Raises ExportError if the quantizer fails."""
        copied = onnx.ModelProto()
        copied.CopyFrom(self.model)
        with converting():
            quantizer = QDQQuantizer(
                copied, True, True, QuantType.QInt8, QuantType.QUInt8, self._ranges,
                [], [*self._excluded, *in_fp32], self._operators, {"MatMulConstBOnly": True},
            )  # fmt: skip
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        converted: onnx.ModelProto = quantizer.model.model
        for tensor in converted.graph.initializer:  # the tools write this default, which published files omit
            tensor.ClearField("data_location")
        return converted


class Fp16Converter:
    """ONNX Runtime's converter to half precision; inputs and outputs keep their types."""

    def __init__(self, model: onnx.ModelProto, samples: Sequence[Feed], folder: Path) -> None:
        """
        Args:
            samples: all samples, which show what values are too large for half precision.
            folder: for temporary files.

        Raises:
            ExportError: ONNX Runtime cannot run the network with its intermediate values as outputs.
        """
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        _name_nodes(self._model)
        with converting():
            onnx.save(self._model, folder / "named.onnx")
            calibrator = create_calibrator(
                folder / "named.onnx", None, augmented_model_path=str(folder / "calibration.onnx")
            )
            for start in range(0, len(samples), _AT_A_TIME):  # a call keeps figures of each sample until it ends
                calibrator.collect_data(_Reader(samples[start : start + _AT_A_TIME]))
            ranges = {
                name: max(float(np.abs(end).max()) for end in values.range_value)
                for name, values in calibrator.compute_data().items()
            }
        nodes = [node for node in self._model.graph.node if node.op_type != "Constant"]
        self.too_large: Sequence[onnx.NodeProto] = [
            node for node in nodes if any(ranges.get(name, 0) > _LARGEST for name in (*node.input, *node.output))
        ]
        """Nodes that read or write values beyond the range of half precision. They always stay in FP32, because ONNX
        Runtime computes most of half precision in FP32 on a CPU, so that an answer there would not show the
        overflow."""
        kept = {node.name for node in self.too_large}
        self.layers: Sequence[onnx.NodeProto] = [node for node in nodes if node.name not in kept]

    def convert(self, in_fp32: Collection[str]) -> onnx.ModelProto:
        """Convert all nodes except those with these names. Raises ExportError if the converter fails."""
        copied = onnx.ModelProto()
        copied.CopyFrom(self._model)  # the converter changes its argument
        with converting():
            converted: onnx.ModelProto = convert_float_to_float16(
                copied, keep_io_types=True, node_block_list=[*in_fp32, *(node.name for node in self.too_large)]
            )
            _keep_fp32_between(converted.graph)
            ONNXModel(converted).topological_sort()
        return converted


Converter = Int8Converter | Fp16Converter


def _with_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), _OPSET)
    return model if opset >= _OPSET else onnx.version_converter.convert_version(model, _OPSET)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give every node of the main graph a unique name, because the quantizer identifies layers by name."""
    seen: set[str] = set()
    for place, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{place}"
            while node.name in seen:
                node.name += "_"
        seen.add(node.name)


def _flatten_biases(model: onnx.ModelProto) -> None:
    """Give each Gemm a bias [n] instead of [1, n], because the quantizer expects n scales on the first axis."""
    biases = {
        tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2 and tensor.dims[0] == 1
    }
    for node in model.graph.node:
        if node.op_type == "Gemm" and len(node.input) == 3 and node.input[2] in biases:
            flat = onnx.numpy_helper.to_array(biases[node.input[2]])[0]
            node.input[2] = f"{node.name}.bias"
            model.graph.initializer.append(onnx.numpy_helper.from_array(flat, node.input[2]))


def _keep_fp32_between(graph: onnx.GraphProto) -> None:
    """Pass values between neighbouring nodes in FP32 unchanged. The converter would cast the values to FP16 and back,
    which turns large values into infinity."""

    def casts(kind: int) -> dict[str, onnx.NodeProto]:
        return {node.output[0]: node for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == kind}

    to_fp16 = casts(onnx.TensorProto.FLOAT16)
    back = {
        name: to_fp16[node.input[0]].input[0]
        for name, node in casts(onnx.TensorProto.FLOAT).items()
        if node.input[0] in to_fp16
    }
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = back.get(name, name)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in used]:
        graph.node.remove(node)


@contextmanager
def converting() -> Iterator[None]:
    """Keep ONNX Runtime's tools quiet, and turn any of their many kinds of exceptions into a ConversionError."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except ExportError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ConversionError(
            f"ONNX Runtime's converter fails on this network ({type(error).__name__}: {reason})."
        ) from error
    finally:
        logging.disable(before)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Gives the quantizer one sample at a time, then None."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds: Iterator[dict[str, Any]] = (dict(feed) for feed in feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)
