"""Publish a trained network as the next version of a model. The file records its provenance and the checks."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxscript import optimizer

from hangtag.export import predecessors, run_source
from hangtag.export.errors import ExportError, GateError
from hangtag.export.file import onnx_model, torch_export
from hangtag.export.gate.check import AGREEMENT, CALIBRATION
from hangtag.export.gate.network_answers import answer, load
from hangtag.export.gate.prove import prove
from hangtag.export.network import load_run
from hangtag.export.quantization import precision
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Quality
from hangtag.export.repository.publishing import publish
from hangtag.training.data.dataset import Dataset, Split
from hangtag.training.metrics import calibration
from hangtag.training.runs import run_data as runs_data
from hangtag.training.runs.config import short_name
from hangtag.training.runs.run import Run

CANVASES = 1_000
"""The default number of canvases on which a file with several labels per image is compared with PyTorch."""
QUANTIZATION_IMAGES = 512
"""The number of training images that determine the range of activations for int8."""
_TEMPERATURE, _SCALED = "temperature", "logits_by_temperature"


def export(
    run: Run,
    data: Dataset,
    models: Path,
    to: str = "fp32",
    *,
    name: str | None = None,
    graph: onnx.ModelProto | None = None,
    canvases: int = CANVASES,
    fit_temperature: bool = False,
    even_if_worse: bool = False,
    even_if_different: bool = False,
) -> tuple[Path, dict[str, str]]:
    """Export the weights of a run's best epoch to a file, check the file at the gate, and publish it.

    Args:
        run: a finished run.
        data: the data set on which the run was trained. For a network with several labels per image: the garments from
            which canvases are composed.
        models: the model repository.
        to: the precision, one of ``PRECISIONS``. The training split determines the range of activations for int8.
        name: the model's name in the repository, to which the precision is appended; None for the network's name.
        graph: the network in FP32 from an earlier export of this run, for a caller that publishes the run several
            times. The file passes the same gate. If ``graph`` is None, PyTorch exports the network.
        canvases: the number of canvases on which a network with several labels per image is compared.
        fit_temperature: fit a temperature on the validation split, and apply it to the file's probabilities. Only for a
            network with one label per image.
        even_if_worse: publish even if the served version is more accurate, or cannot be compared.
        even_if_different: publish even if the served version has other inputs, outputs, labels or fit.

    Returns:
        The version's folder, and a summary of each check.

    Raises:
        RunMismatchError: the run is not finished.
        ExportError: One of: the weights do not fit the network; PyTorch cannot export it; the served version
            cannot be compared; this network cannot have the precision or a temperature; the repository cannot be
            written.
        GateError: One of: a check fails; no temperature fits; the served version has another contract.
        Nothing is published in any of these cases.

    Example:
        >>> export(Run.find("cnn", Path("runs")), fashion_mnist.load(), Path("models"))[0]
        PosixPath('models/cnn/3')
    """
    run.require_finished()
    config, metrics = run.config, run.metrics
    served, name = load_run(run), precision.model_name(name or short_name(run.model), to)
    summary, digest, logits_before = metrics["summary"], config["data_digest"], None
    images, classes, test_images = run_source.gate_images(served, data.test, config, canvases)
    if classes is None and to != "fp32":
        raise ExportError(f"{name} answers with sets of labels. Such a network is published in fp32 only, not in {to}.")
    if classes is None and fit_temperature:
        raise ExportError(
            f"{name} answers with sets of labels, but a temperature can only be fitted to a single label per image. "
            "Export it without --fit-temperature."
        )
    rival = predecessors.serving(models, name)
    labels = runs_data.labels(summary)
    contract = served.inputs, served.outputs, labels, served.image
    predecessors.require_same_contract(rival, *contract, even_if_different=even_if_different)
    serving = None if rival is None else predecessors.recorded(rival, digest)
    common, on = None, ""  # test pictures for measuring both versions, if the served version records no accuracy
    if rival is not None and serving is None and classes is not None and not even_if_worse:
        test = Split(images, classes)
        common = predecessors.common_pictures(rival, test, served.image, labels, run.folder.parent)
    if rival is not None and common is not None:
        serving = predecessors.measure(rival.path, common, batched=bool(rival.batched))
        on = f" on {len(common):,} of the run's test pictures"
    elif rival is not None and serving is None and not even_if_worse:
        figure = Quality.of(rival.metadata)
        why = "records no test figure" if figure is None else f"was tested on another data set ({figure})"
        raise predecessors.incomparable(rival, why)
    with publish(models, name) as publication:
        file = publication.model_file
        fp32 = graph or torch_export.to_onnx(served, run.model)
        model = precision.convert(fp32, to, data.train.first(QUANTIZATION_IMAGES).images, served.image)
        metadata = served.metadata | run_source.provenance(served, config, metrics)
        metadata |= {"precision": to, "processor": onnx_model.processor()}
        onnx_model.write(model, metadata, file)
        if fit_temperature:
            fitted = served.temperature = _fitted(file, data.validation)
            logits_before = answer(load(file), images, check=CALIBRATION)["logits"]
            model = _folded(model, fitted)
            fitted_on = f"{len(data.validation):,} validation images"
            metadata |= {"temperature": f"{fitted:g}", "temperature_fitted_on": fitted_on}
            onnx_model.write(model, metadata, file)
        recorded = run_source.recorded_accuracy(served, summary)
        checks, expected = prove(
            served, file, model, images, classes, precision=to, recorded=recorded, logits_before=logits_before
        )
        measured = next((check.figures.get("accuracy") for check in checks if check.name == AGREEMENT), None)
        metadata |= {} if measured is None else {"test_accuracy": f"{measured:.4f}"}
        own = Quality.of(metadata)
        if common is not None:
            own, test_images = predecessors.measure(file, common, batched=True), len(common)
        trial = inventory.trial(metadata)
        if rival is not None and own is not None and serving is not None:
            note = f"The run is a trial, {trial}. " if trial else ""
            compared = predecessors.compare(
                own, test_images, serving, rival.version, even_if_worse=even_if_worse, on=on, note=note
            )
            checks.append(compared)
        gate = {"precision": to} | {check.name: dict(check.figures) for check in checks}
        metadata |= run_source.kept_pictures(config, expected, images, classes)
        metadata |= {"gate": json.dumps(gate), "graph_digest": onnx_model.digest(model)}
        # The file is written again with the results of the checks. Its graph and weights do not change.
        onnx_model.write(model, metadata, file)
    summaries = {"TRIAL RUN": trial} if trial else {}
    return publication.folder, summaries | {check.name: check.summary for check in checks}


def _fitted(file: Path, validation: Split) -> float:
    """Return the temperature that best fits a file's logits for images on which the network was not trained.

    This is temperature scaling (Guo et al., On Calibration of Modern Neural Networks, ICML 2017).

    Raises:
        GateError: One of: the file cannot be loaded; it fails on an image; it returns logits that are not finite; the
            best temperature is out of range.
    """
    logits = answer(load(file), validation.images, check=CALIBRATION)["logits"]
    try:
        fitted = calibration.fit_temperature(logits, validation.classes)
    except ValueError as error:
        raise GateError(CALIBRATION, f"{error}. Export it without --fit-temperature.") from error
    return float(f"{fitted:.6g}")  # rounded to as many digits as the metadata have


def _folded(model: onnx.ModelProto, temperature: float) -> onnx.ModelProto:
    """Return a copy of the classifier whose ``probabilities`` are the softmax of ``logits`` / T, in FP32.

    Call this function after the conversion to a precision. The logits do not change.

    Args:
        model: a classifier with the outputs ``logits`` and ``probabilities``, FP32 [batch, labels].
        temperature: a number above 0. The temperature 1 changes the probabilities only by rounding.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    (replaced,) = [node for node in graph.node if "probabilities" in node.output]
    graph.node.remove(replaced)
    graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), _TEMPERATURE))
    graph.node.append(helper.make_node("Div", ["logits", _TEMPERATURE], [_SCALED], name="divide_by_temperature"))
    graph.node.append(helper.make_node("Softmax", [_SCALED], ["probabilities"], name="calibrated_softmax", axis=1))
    # In FP16 the removed node is a Cast. The Softmax before it is no longer used, and must be removed too.
    optimizer.remove_unused_nodes(folded)
    return folded
