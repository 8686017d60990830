"""Calibrate a classifier: fit a temperature on the validation split, as the file answers it, and fold it into the file.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017, call it temperature scaling.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxscript import optimizer

from hangtag.export.arrays import Array, Pixels
from hangtag.export.errors import GateError
from hangtag.export.file import onnx_model
from hangtag.export.gate.check import CALIBRATION
from hangtag.export.gate.reference import answer, load
from hangtag.training.data.dataset import Split
from hangtag.training.metrics.calibration import fit_temperature

_TEMPERATURE, _SCALED = "temperature", "logits_by_temperature"


@dataclass(frozen=True)
class Calibrated:
    """A file with its temperature, and what the gate compares it with."""

    model: onnx.ModelProto
    temperature: float
    logits_before: Array
    """The logits of the file without a temperature for the test images, [n, labels]."""


def calibrate(file: Path, model: onnx.ModelProto, validation: Split, test: Pixels) -> Calibrated:
    """Fit a temperature to the logits that the file itself computes, and fold it into its graph and metadata.

    Args:
        file: the model in its precision, without a temperature.
        model: the parsed content of the file. It is not changed.
        validation: the images that the temperature is fitted on; the network was not trained on them.
        test: images of the gate, [n, height, width].

    Raises:
        GateError: the file does not load or fails on an image, or no temperature is the best.
    """
    runtime = load(file)
    try:
        fitted = fit_temperature(answer(runtime, validation.images, check=CALIBRATION)["logits"], validation.classes)
    except ValueError as error:
        raise GateError(CALIBRATION, f"{error}. Export it without --calibrate.") from error
    fitted = float(f"{fitted:.6g}")  # the metadata's digits
    calibrated = _fold(model, fitted)
    added = {"temperature": f"{fitted:g}", "temperature_fitted_on": f"{len(validation):,} validation images"}
    onnx_model.add_metadata(calibrated, added)
    return Calibrated(calibrated, fitted, answer(runtime, test, check=CALIBRATION)["logits"])


def _fold(model: onnx.ModelProto, temperature: float) -> onnx.ModelProto:
    """Return a copy of the classifier whose ``probabilities`` are the softmax of ``logits`` / T, in FP32.

    The graph is changed after its conversion to a precision, so that nothing that computes the logits changes with it.

    Args:
        model: has the outputs ``logits`` and ``probabilities``, FP32 [batch, labels].
        temperature: above 0. At 1 the probabilities stay what they are, within rounding.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    (replaced,) = [node for node in graph.node if "probabilities" in node.output]
    graph.node.remove(replaced)
    graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), _TEMPERATURE))
    graph.node.append(helper.make_node("Div", ["logits", _TEMPERATURE], [_SCALED], name="divide_by_temperature"))
    graph.node.append(helper.make_node("Softmax", [_SCALED], ["probabilities"], name="calibrated_softmax", axis=1))
    # In FP16 the replaced node is a Cast, whose Softmax has no reader now.
    optimizer.remove_unused_nodes(folded)
    return folded
