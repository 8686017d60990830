"""Publish a network of ours as the next version of a model, with its provenance and proof inside the file."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from hangtag.export import calibration, predecessors
from hangtag.export.arrays import Pixels
from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model
from hangtag.export.gate import speed
from hangtag.export.gate.check import CALIBRATION
from hangtag.export.gate.prove import Proof, prove
from hangtag.export.gate.reference import Reference, answer, load
from hangtag.export.quantization import precision
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Quality
from hangtag.export.repository.publishing import publish
from hangtag.training.data.dataset import Classes, Dataset

if TYPE_CHECKING:  # a file needs no torch, which a run needs
    from hangtag.export.network import ServedNetwork

QUANTIZATION_IMAGES = 512
"""int8 sees this many images of the training split, to learn how large activations get."""


@dataclass(frozen=True)
class Source:
    """What is published: a run (``run_source``), or the FP32 file of one (``file_source``).

    Attributes:
        name: The model's name in the repository.
        precision: Of the published file, one of ``PRECISIONS``. int8 takes the range of activations from the training
            split.
        graph: Makes the FP32 model, whose metadata hold the provenance.
        reference: What the published file must answer like.
        labels: In their order.
        data: What the network learned from.
        data_digest: Of that, as the run recorded it.
        images: On which the file is proven.
        classes: Their true classes, where each has one label.
        test_images: How many images the test figure is a share of.
        recorded: Metadata that follow from the proof.
        network: In PyTorch; None for a file.
    """

    name: str
    precision: str
    graph: Callable[[], onnx.ModelProto]
    reference: Reference
    labels: tuple[str, ...]
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
    calibrate: bool = False,
    timing: str = "none",
    even_if_worse: bool = False,
    even_if_different: bool = False,
) -> Published:
    """Make the file in the source's precision, take it through the gate, and publish it.

    Args:
        source: what is published.
        models: the model repository.
        calibrate: fit a temperature on the validation split, which becomes part of the file's probabilities. For a run
            with one label per image only.
        timing: what to compare the file's speed with, one of ``gate.speed.TIMINGS``.
        even_if_worse: publish it also if the version that serves is better, or cannot be compared.
        even_if_different: publish it also if the version that serves has other inputs, outputs or labels.

    Raises:
        ExportError: the version that serves has no figure on the same test set, the precision or a temperature is not
            for this network, or nothing can be written.
        GateError: a check fails, no temperature fits, or the version that serves has other inputs, outputs or labels.
        Nothing is published in any of these cases.

    Example:
        >>> source = run_source.of_run(Run.find("cnn", Path("runs")), fashion_mnist.load())
        >>> export(source, Path("models")).folder
        PosixPath('models/cnn/3')
    """
    expected, to, logits_before = source.reference, source.precision, None
    if source.classes is None and to != "fp32":
        raise ExportError(f"{source.name} answers with sets of labels, which are published in fp32 only, not in {to}.")
    if source.classes is None and calibrate:
        raise ExportError(
            f"{source.name} answers with sets of labels, and a temperature is fitted to one label per image. Export it "
            "without --calibrate."
        )
    rival = predecessors.serving(models, source.name)
    predecessors.require_same_contract(
        rival, expected.inputs, expected.outputs, source.labels, even_if_different=even_if_different
    )
    if rival is not None and not even_if_worse and predecessors.recorded(rival, source.data_digest) is None:
        figure = Quality.of(rival.metadata)
        why = "records no test figure" if figure is None else f"was tested on another data set ({figure})"
        raise predecessors.incomparable(rival, why)
    with publish(models, source.name) as publication, tempfile.TemporaryDirectory() as folder:
        file, fp32_file = publication.model_file, Path(folder, "fp32.onnx")
        fp32 = source.graph()
        fp32_file.write_bytes(fp32.SerializeToString())
        model = precision.convert(fp32, to, source.data.train.images[:QUANTIZATION_IMAGES])
        metadata = onnx_model.metadata(model) | {"precision": to, "processor": ", ".join(speed.instructions())}
        onnx_model.write(model, metadata, file)
        if calibrate:
            assert source.network is not None
            validation = source.data.validation
            temperature = source.network.temperature = calibration.fit(file, validation)
            logits_before = answer(load(file), source.images, check=CALIBRATION)["logits"]
            model = calibration.fold(model, temperature, len(validation))
            expected = replace(expected, temperature=temperature)
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
        original = None if to == "fp32" else fp32_file
        proof = replace(proof, speed=speed.measure(file, source.images, source.network, original, timing))
        metadata |= {**proof.metadata, **source.recorded(proof), "graph_digest": onnx_model.digest(model)}
        # Written again with the proof in its metadata; graph and weights, which were proven, are the same.
        onnx_model.write(model, metadata, file)
    return Published(publication.folder, proof, metadata)
