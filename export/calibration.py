"""Calibrate a classifier: fit a temperature on the validation split, as the file answers it, and fold it into the file.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017, call it temperature scaling.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxscript import optimizer

from hangtag.export.errors import GateError
from hangtag.export.file import onnx_model
from hangtag.export.gate.check import CALIBRATION
from hangtag.export.gate.reference import answer, load
from hangtag.training.data.dataset import Split
from hangtag.training.metrics.calibration import fit_temperature

_TEMPERATURE, _SCALED = "temperature", "logits_by_temperature"


def fit(file: Path, validation: Split) -> float:
    """Fit a temperature to the logits that a file computes for images that the network was not trained on.

    Raises:
        GateError: the file does not load or fails on an image, or no temperature is the best.
    """
    logits = answer(load(file), validation.images, check=CALIBRATION)["logits"]
    try:
        fitted = fit_temperature(logits, validation.classes)
    except ValueError as error:
        raise GateError(CALIBRATION, f"{error}. Export it without --calibrate.") from error
    return float(f"{fitted:.6g}")  # the metadata's digits


def fold(model: onnx.ModelProto, temperature: float, images: int) -> onnx.ModelProto:
    """Return a copy of the classifier whose ``probabilities`` are the softmax of ``logits`` / T, in FP32.

    The graph is changed after its conversion to a precision, so that nothing that computes the logits changes with it.

    Args:
        model: has the outputs ``logits`` and ``probabilities``, FP32 [batch, labels].
        temperature: above 0. At 1 the probabilities stay what they are, within rounding.
        images: on how many validation images it was fitted.
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
    added = {"temperature": f"{temperature:g}", "temperature_fitted_on": f"{images:,} validation images"}
    onnx_model.add_metadata(folded, added)
    return folded
