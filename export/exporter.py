"""Publish a network that hangtag trained as a model's next version, with its provenance and proof in the file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxscript import optimizer

from hangtag.export import predecessors
from hangtag.export.arrays import Pixels
from hangtag.export.errors import ExportError, GateError
from hangtag.export.file import onnx_model
from hangtag.export.gate.check import CALIBRATION
from hangtag.export.gate.prove import Proof, prove
from hangtag.export.gate.reference import Reference, answer, load
from hangtag.export.quantization import precision
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Quality
from hangtag.export.repository.publishing import publish
from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.dataset import Classes, Dataset, Split
from hangtag.training.metrics import calibration

if TYPE_CHECKING:  # exporting a file needs no torch, exporting a run does
    from hangtag.export.network import ServedNetwork

QUANTIZATION_IMAGES = 512
"""How many images of the training split int8 uses to learn how large activations get."""
_TEMPERATURE, _SCALED = "temperature", "logits_by_temperature"


@dataclass(frozen=True)
class Source:
    """What to publish: a run (``run_source``), or a run's FP32 file (``file_source``).

    Attributes:
        name: The model's name in the repository.
        precision: The published file's precision, one of ``PRECISIONS``. int8 takes the range of activations from the
            training split.
        graph: Makes the FP32 model, whose metadata hold the provenance.
        reference: The network or file whose answers the published file must match.
        labels: The labels, in their order.
        image: How a picture becomes the model's input.
        data: The data set that the network learned from.
        data_digest: The digest of that data, as recorded by the run.
        images: The images on which the file is proven.
        classes: The true class of each image; None if images have several labels.
        test_images: How many images the test figure refers to.
        recorded: Metadata that follow from the proof.
        network: The network in PyTorch; None for a file.
    """

    name: str
    precision: str
    graph: Callable[[], onnx.ModelProto]
    reference: Reference
    labels: tuple[str, ...]
    image: ImageSpec | None
    data: Dataset
    data_digest: str
    images: Pixels
    classes: Classes | None
    test_images: int
    recorded: Callable[[Proof], Mapping[str, str]] = lambda _: {}
    network: "ServedNetwork | None" = None


@dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        folder: The version's folder.
        proof: What the file proved.
        metadata: The file's own metadata (keys without their prefix).
    """

    folder: Path
    proof: Proof
    metadata: Mapping[str, str]


def export(
    source: Source,
    models: Path,
    *,
    fit_temperature: bool = False,
    even_if_worse: bool = False,
    even_if_different: bool = False,
) -> Published:
    """Make the file in the source's precision, check it at the gate, and publish it.

    Args:
        source: what to publish.
        models: the model repository.
        fit_temperature: fit a temperature on the validation split, and apply it to the file's probabilities. Only for a
            run with one label per image.
        even_if_worse: publish even if the version that serves is better, or cannot be compared.
        even_if_different: publish even if the version that serves has other inputs, outputs, labels or fit.

    Raises:
        ExportError: the version that serves has no figure on the same test set, this network cannot have the precision
            or a temperature, or the repository cannot be written.
        GateError: a check fails, no temperature fits, or the version that serves has another contract.
        Nothing is published in any of these cases.

    Example:
        >>> source = run_source.of_run(Run.find("cnn", Path("runs")), fashion_mnist.load())
        >>> export(source, Path("models")).folder
        PosixPath('models/cnn/3')
    """
    expected, to, logits_before = source.reference, source.precision, None
    if source.classes is None and to != "fp32":
        raise ExportError(f"{source.name} answers with sets of labels, which are published in fp32 only, not in {to}.")
    if source.classes is None and fit_temperature:
        raise ExportError(
            f"{source.name} answers with sets of labels, but a temperature can only be fitted to a single label per "
            "image. Export it without --fit-temperature."
        )
    rival = predecessors.serving(models, source.name)
    predecessors.require_same_contract(
        rival, expected.inputs, expected.outputs, source.labels, source.image, even_if_different=even_if_different
    )
    if rival is not None and not even_if_worse and predecessors.recorded(rival, source.data_digest) is None:
        figure = Quality.of(rival.metadata)
        why = "records no test figure" if figure is None else f"was tested on another data set ({figure})"
        raise predecessors.incomparable(rival, why)
    with publish(models, source.name) as publication:
        file = publication.model_file
        model = precision.convert(source.graph(), to, source.data.train.first(QUANTIZATION_IMAGES).images)
        metadata = onnx_model.metadata(model) | {"precision": to, "processor": onnx_model.processor()}
        onnx_model.write(model, metadata, file)
        if fit_temperature:
            assert source.network is not None
            validation = source.data.validation
            fitted = source.network.temperature = _fitted(file, validation)
            logits_before = answer(load(file), source.images, check=CALIBRATION)["logits"]
            model = _folded(model, fitted, len(validation))
            expected = replace(expected, temperature=fitted)
            metadata = onnx_model.metadata(model)
            file.write_bytes(model.SerializeToString())
        proof = prove(expected, file, model, source.images, source.classes, precision=to, logits_before=logits_before)
        own = Quality.of(metadata | proof.metadata)
        serving = None if rival is None else predecessors.recorded(rival, source.data_digest)
        if rival is not None and own is not None and serving is not None:
            trial = f"The run is a trial, {text}. " if (text := inventory.trial(metadata)) else ""
            compared = predecessors.compare(
                own, source.test_images, serving, rival.version, even_if_worse=even_if_worse, note=trial
            )
            proof = replace(proof, checks=[*proof.checks, compared])
        metadata |= {**proof.metadata, **source.recorded(proof), "graph_digest": onnx_model.digest(model)}
        # The file is written again with the proof in its metadata; its graph and weights stay what was proven.
        onnx_model.write(model, metadata, file)
    return Published(publication.folder, proof, metadata)


def _fitted(file: Path, validation: Split) -> float:
    """Return the temperature that best fits a file's logits for images on which the network was not trained.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, call it temperature scaling.

    Raises:
        GateError: the file does not load or fails on an image, or there is no best temperature.
    """
    logits = answer(load(file), validation.images, check=CALIBRATION)["logits"]
    try:
        fitted = calibration.fit_temperature(logits, validation.classes)
    except ValueError as error:
        raise GateError(CALIBRATION, f"{error}. Export it without --fit-temperature.") from error
    return float(f"{fitted:.6g}")  # the metadata's digits


def _folded(model: onnx.ModelProto, temperature: float, images: int) -> onnx.ModelProto:
    """Return a copy of the classifier whose ``probabilities`` are the softmax of ``logits`` / T, in FP32.

    The graph is changed after its conversion to a precision, so that the logits stay the same.

    Args:
        model: has the outputs ``logits`` and ``probabilities``, FP32 [batch, labels].
        temperature: above 0. At 1 the probabilities do not change, except for rounding.
        images: on how many validation images the temperature was fitted.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    (replaced,) = [node for node in graph.node if "probabilities" in node.output]
    graph.node.remove(replaced)
    graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), _TEMPERATURE))
    graph.node.append(helper.make_node("Div", ["logits", _TEMPERATURE], [_SCALED], name="divide_by_temperature"))
    graph.node.append(helper.make_node("Softmax", [_SCALED], ["probabilities"], name="calibrated_softmax", axis=1))
    # In FP16 the replaced node is a Cast, so its Softmax has no reader now.
    optimizer.remove_unused_nodes(folded)
    added = {"temperature": f"{temperature:g}", "temperature_fitted_on": f"{images:,} validation images"}
    onnx_model.add_metadata(folded, added)
    return folded
