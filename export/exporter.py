"""Publish a trained network as the next version of a model. The file records its provenance and the checks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxscript import optimizer

from hangtag.export import predecessors, run_source
from hangtag.export.errors import ExportError, GateError
from hangtag.export.file import onnx_model
from hangtag.export.gate.check import CALIBRATION
from hangtag.export.gate.network_answers import answer, load
from hangtag.export.gate.prove import Proof, prove
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


@dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        folder: The version's folder.
        proof: The checks that the file passed.
        metadata: The properties under ``hangtag.`` in the file, without that prefix.
    """

    folder: Path
    proof: Proof
    metadata: Mapping[str, str]


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
) -> Published:
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
        even_if_worse: publish even if the version that serves is more accurate, or cannot be compared.
        even_if_different: publish even if the version that serves has other inputs, outputs, labels or fit.

    Raises:
        RunMismatchError: the run is not finished.
        ExportError: the weights do not fit the network, PyTorch cannot export it, the version that serves has no figure
            on the same test set, this network cannot have the precision or a temperature, or the repository cannot be
            written.
        GateError: a check fails, no temperature fits, or the version that serves has another contract.
        Nothing is published in any of these cases.

    Example:
        >>> export(Run.find("cnn", Path("runs")), fashion_mnist.load(), Path("models")).folder
        PosixPath('models/cnn/3')
    """
    run.require_finished()
    config, metrics = run.read_config(), run.read_metrics()
    served, name = load_run(run), precision.model_name(name or short_name(run.model), to)
    summary, digest, logits_before = metrics["summary"], config["data_digest"], None
    images, classes, test_images = run_source.gate_images(served, data.test, config, canvases)
    if classes is None and to != "fp32":
        raise ExportError(f"{name} answers with sets of labels, which are published in fp32 only, not in {to}.")
    if classes is None and fit_temperature:
        raise ExportError(
            f"{name} answers with sets of labels, but a temperature can only be fitted to a single label per image. "
            "Export it without --fit-temperature."
        )
    rival = predecessors.serving(models, name)
    contract = served.inputs, served.outputs, runs_data.labels(summary), served.image
    predecessors.require_same_contract(rival, *contract, even_if_different=even_if_different)
    if rival is not None and not even_if_worse and predecessors.recorded(rival, digest) is None:
        figure = Quality.of(rival.metadata)
        why = "records no test figure" if figure is None else f"was tested on another data set ({figure})"
        raise predecessors.incomparable(rival, why)
    with publish(models, name) as publication:
        file = publication.model_file
        described = served.metadata | run_source.provenance(served, config, metrics)
        fp32 = onnx_model.described(graph, described) if graph else run_source.to_onnx(served, described, run.model)
        model = precision.convert(fp32, to, data.train.first(QUANTIZATION_IMAGES).images)
        metadata = onnx_model.metadata(model) | {"precision": to, "processor": onnx_model.processor()}
        onnx_model.write(model, metadata, file)
        if fit_temperature:
            fitted = served.temperature = _fitted(file, data.validation)
            logits_before = answer(load(file), images, check=CALIBRATION)["logits"]
            model = _folded(model, fitted, len(data.validation))
            metadata = onnx_model.metadata(model)
            file.write_bytes(model.SerializeToString())
        recorded = run_source.recorded_accuracy(served, summary)
        proof = prove(
            served, file, model, images, classes, precision=to, recorded=recorded, logits_before=logits_before
        )
        own = Quality.of(metadata | proof.metadata)
        serving = None if rival is None else predecessors.recorded(rival, digest)
        if rival is not None and own is not None and serving is not None:
            trial = f"The run is a trial, {text}. " if (text := inventory.trial(metadata)) else ""
            compared = predecessors.compare(
                own, test_images, serving, rival.version, even_if_worse=even_if_worse, note=trial
            )
            proof = replace(proof, checks=[*proof.checks, compared])
        kept = run_source.kept_pictures(config, proof.expected, images, classes)
        metadata |= {**proof.metadata, **kept, "graph_digest": onnx_model.digest(model)}
        # The file is written again with the results of the checks. Its graph and weights do not change.
        onnx_model.write(model, metadata, file)
    return Published(publication.folder, proof, metadata)


def _fitted(file: Path, validation: Split) -> float:
    """Return the temperature that best fits a file's logits for images on which the network was not trained.

    This is temperature scaling (Guo et al., On Calibration of Modern Neural Networks, ICML 2017).

    Raises:
        GateError: the file cannot be loaded, fails on an image, or returns logits that are not finite, or the best
            temperature is out of range.
    """
    logits = answer(load(file), validation.images, check=CALIBRATION)["logits"]
    try:
        fitted = calibration.fit_temperature(logits, validation.classes)
    except ValueError as error:
        raise GateError(CALIBRATION, f"{error}. Export it without --fit-temperature.") from error
    return float(f"{fitted:.6g}")  # rounded to as many digits as the metadata have


def _folded(model: onnx.ModelProto, temperature: float, images: int) -> onnx.ModelProto:
    """Return a copy of the classifier whose ``probabilities`` are the softmax of ``logits`` / T, in FP32.

    The graph is changed after its conversion to a precision, so that the logits stay the same.

    Args:
        model: a classifier with the outputs ``logits`` and ``probabilities``, FP32 [batch, labels].
        temperature: a number above 0. The temperature 1 changes the probabilities only by rounding.
        images: the number of validation images on which the temperature was fitted.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    (replaced,) = [node for node in graph.node if "probabilities" in node.output]
    graph.node.remove(replaced)
    graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), _TEMPERATURE))
    graph.node.append(helper.make_node("Div", ["logits", _TEMPERATURE], [_SCALED], name="divide_by_temperature"))
    graph.node.append(helper.make_node("Softmax", [_SCALED], ["probabilities"], name="calibrated_softmax", axis=1))
    # In FP16 the replaced node is a Cast, so no node reads the former Softmax any more.
    optimizer.remove_unused_nodes(folded)
    added = {"temperature": f"{temperature:g}", "temperature_fitted_on": f"{images:,} validation images"}
    onnx_model.add_metadata(folded, added)
    return folded
