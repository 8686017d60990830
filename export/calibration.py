"""Calibrate a classifier: fit a temperature on the validation split, as the file answers it, and fold it into the file.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017, call it temperature scaling.
"""

from dataclasses import dataclass
from pathlib import Path

import onnx

from hangtag.export.arrays import Array, Pixels
from hangtag.export.errors import GateError
from hangtag.export.file import onnx_model, temperature
from hangtag.export.gate.check import CALIBRATION, STRUCTURE
from hangtag.export.gate.runtime_answers import answer
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data.dataset import Split
from hangtag.training.metrics.calibration import fit_temperature


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
    try:
        runtime = Runtime(file, provider="cpu")
    except ModelLoadError as error:
        raise GateError(STRUCTURE, f"{error}.") from error
    try:
        fitted = fit_temperature(answer(runtime, validation.images, check=CALIBRATION)["logits"], validation.classes)
    except ValueError as error:
        raise GateError(CALIBRATION, f"{error}. Export it without --calibrate.") from error
    fitted = float(f"{fitted:.6g}")  # the metadata's digits
    calibrated = temperature.fold(model, fitted)
    added = {"temperature": f"{fitted:g}", "temperature_fitted_on": f"{len(validation):,} validation images"}
    onnx_model.add_metadata(calibrated, added)
    return Calibrated(calibrated, fitted, answer(runtime, test, check=CALIBRATION)["logits"])
