"""Convert any network to int8, with some layers in FP32. A converter prepares a network once, for many conversions."""

import io
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QDQQuantizer, QuantType, create_calibrator
from onnxruntime.quantization.shape_inference import quant_pre_process

from hangtag.export.errors import ExportError
from hangtag.export.quantization.calibration_samples import Feed

LAYERS = ("Conv", "Gemm", "MatMul")
"""The operators to compute in 8 bits, if their weights are constants."""
PASSING = ("Relu", "Clip", "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
"""Between two LAYERS, these operators are computed in 8 bits too, so that no value is converted to FP32 and back."""
_OPSET = 13
"""The first opset in which weights may have a scale for each channel."""


class Int8Converter:
    """Converts a network with ONNX Runtime's static quantizer (QDQ). Its fixed scales make answers independent of the
    rest of a batch.

    Weights have 7 bits (``reduce_range``), and each output channel has its own scale. Processors without 8-bit dot
    products add two products in 16 bits. With 7-bit weights, no sum overflows: all processors compute the same sums.
    """

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
            folder: the folder for temporary files.
            layers: operators to compute in 8 bits, if their weights are constants.
            passing: operators to compute in 8 bits between two of ``layers``.

        Raises:
            ExportError: the network has no layer that can be quantized, or ONNX Runtime's quantizer fails on the
                network.
        """
        original, prepared = folder / "simple.onnx", folder / "prepared.onnx"
        with converting():
            onnx.save(_with_opset(model), original)
            # Fold and fuse nodes now, not when the file is loaded, so that only the remaining tensors get scales.
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
        for tensor in converted.graph.initializer:  # the quantizer writes a default value, which published files omit
            tensor.ClearField("data_location")
        return converted


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


@contextmanager
def converting() -> Iterator[None]:
    """Suppress the output of ONNX Runtime's tools, and turn their many kinds of exceptions into an ExportError."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except ExportError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportError(
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
