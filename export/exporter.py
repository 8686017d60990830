"""Publish a finished run as the next version of a model, with its provenance and proof inside the file."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import calibration, predecessors
from hangtag.export.errors import ExportError
from hangtag.export.file import examples, onnx_model, provenance, reference_answers, torch_export
from hangtag.export.gate import processor, speed
from hangtag.export.gate.network_gate import prove
from hangtag.export.gate.proof import GATE_IMAGES, GateData, Proof
from hangtag.export.network import checkpoint
from hangtag.export.network.served_network import ServedNetwork, SingleLabel
from hangtag.export.published import Published
from hangtag.export.quantization import precision
from hangtag.export.repository.publishing import publish
from hangtag.training.data import fashion_mnist, outfits, sources
from hangtag.training.data.dataset import Dataset, Images, Split
from hangtag.training.networks import own
from hangtag.training.runs import data as runs_data
from hangtag.training.runs.run import Run

CANVASES = 1_000
"""A network that answers with several labels is compared on this many canvases, unless a caller says otherwise."""
QUANTIZATION_IMAGES = 512
"""int8 sees this many images of the training split, to learn how large activations get."""
_VOC_TEST_IMAGES = 4_952


def export(
    run: Run,
    models: Path,
    data: Dataset,
    *,
    to: str = "fp32",
    calibrate: bool = False,
    timing: str = "none",
    even_if_worse: bool = False,
    even_if_different: bool = False,
    graph: onnx.ModelProto | None = None,
    canvases: int = CANVASES,
    name: str | None = None,
) -> Published:
    """Export the run's best epoch in the precision ``to``, take it through the gate, and publish it.

    Args:
        models: the model repository.
        data: what the run learned from. The file is proven on its test split, and int8 takes the range of activations
            from its training split. For sets of labels: the garments that canvases are composed of.
        to: one of ``PRECISIONS``.
        calibrate: fit a temperature on the validation split, which becomes part of the file's probabilities. For one
            label per image only.
        timing: what to compare the file's speed with, one of ``gate.speed.TIMINGS``.
        even_if_worse: publish it also if the version that serves is better, or cannot be compared.
        even_if_different: publish it also if the version that serves has other inputs, outputs or labels.
        graph: the network in FP32 as an earlier export of this run made it, for a caller that publishes the run several
            times; it passes the same gate. None lets PyTorch export it.
        canvases: on how many a network that answers with several labels is compared.
        name: the model's name in the repository, to which a precision adds its own; None for the network's.

    Raises:
        RunMismatchError: the run is not finished.
        IncomparableError: the version that serves has no figure on the same test set.
        ExportError: the weights do not fit, the precision or a temperature is not for this network, or nothing can be
            written.
        GateError: a check fails, no temperature fits, or the version that serves has other inputs, outputs or labels.
        Nothing is published in any of these cases.

    Example:
        >>> published = export(Run.find("cnn", Path("runs")), Path("models"), fashion_mnist.load())
        >>> published.folder
        PosixPath('models/cnn/3')
    """
    run.require_finished()
    config, metrics = run.read_config(), run.read_metrics()
    served = checkpoint.load(run)
    if to != "fp32" and not isinstance(served, SingleLabel):
        raise ExportError(f"{run.model} answers with sets of labels, which are published in fp32 only, not in {to}.")
    if calibrate and not isinstance(served, SingleLabel):
        raise ExportError(
            f"{run.model} answers with sets of labels, and a temperature is fitted to one label per image. Export it "
            "without --calibrate."
        )
    name = precision.model_name(name or own.short_name(run.model), to)
    rival = predecessors.find(models, name, config["data_digest"], even_if_worse=even_if_worse)
    predecessors.require_same_contract(
        models,
        name,
        list(map(str, served.inputs)),
        list(map(str, served.outputs)),
        runs_data.labels(metrics["summary"]),
        even_if_different=even_if_different,
    )
    gate = _gate_data(served, data.test, config, canvases)
    with publish(models, name) as publication:
        file = publication.model_file
        of_export = {"precision": to, "processor": ", ".join(processor.instructions())}
        metadata = served.metadata | of_export | provenance.collect(served, config, metrics)
        fp32_model = torch_export.to_onnx(served, metadata) if graph is None else _described(graph, metadata)
        model = precision.convert(fp32_model, to, data.train.images[:QUANTIZATION_IMAGES])
        file.write_bytes(model.SerializeToString())
        if calibrate:
            calibrated = calibration.calibrate(file, model, data.validation, gate.images)
            model, served.temperature = calibrated.model, calibrated.temperature
            gate = replace(gate, logits_before=calibrated.logits_before)
            file.write_bytes(model.SerializeToString())
        proof = prove(served, file, model, gate, precision=to)
        if rival is not None:
            remedy = f"add --even-if-worse (make export MODEL={run.model} ARGS=--even-if-worse)"
            images = _test_images(served, data.test, config)
            described = metadata | proof.metadata
            compared = predecessors.compare(described, rival, images, remedy, even_if_worse=even_if_worse)
            proof = replace(proof, checks=[*proof.checks, compared])
        with _fp32_file(fp32_model, needed=to != "fp32") as fp32:
            proof = replace(proof, speed=speed.measure(file, gate.images, served, fp32, timing))
        reference = _reference(proof, gate, config)
        # Written again with the proof in its metadata; graph and weights, which were proven, are the same.
        onnx_model.add_metadata(model, proof.metadata | reference | {"graph_digest": onnx_model.digest(model)})
        file.write_bytes(model.SerializeToString())
    return Published(publication.folder, proof, onnx_model.metadata(model), gate.images)


def _reference(proof: Proof, gate: GateData, config: Mapping[str, Any]) -> dict[str, str]:
    """PyTorch's answers, and examples; of own pictures, which may be gone some day, the answers to the examples."""
    if gate.classes is None:
        return reference_answers.record(proof.expected, one_label=False)
    chosen = examples.choose(proof.expected, gate.classes)
    kept = examples.record(gate.images[chosen], gate.classes[chosen])
    first = chosen if sources.kind_of(str(config.get("dataset", fashion_mnist.NAME))) else None
    return kept | reference_answers.record(proof.expected, one_label=True, first=first)


def _described(graph: onnx.ModelProto, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """A copy of the graph with this metadata instead of its own, of which only what PyTorch exported is still true."""
    own = onnx_model.metadata(graph)
    kept = {key: own[key] for key in ("nodes_before_folding",) if key in own}
    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    del copied.metadata_props[:]
    onnx_model.add_metadata(copied, {**metadata, **kept})
    return copied


def _test_images(served: ServedNetwork, test: Split, config: Mapping[str, Any]) -> int:
    """How many images the test figure is a share of."""
    if isinstance(served, SingleLabel):
        return min(len(test), GATE_IMAGES)
    return outfits.SIZES["test"] if config.get("dataset") in outfits.NAMES else _VOC_TEST_IMAGES


@contextmanager
def _fp32_file(model: onnx.ModelProto, *, needed: bool) -> Iterator[Path | None]:
    """A temporary file of the network in FP32, whose speed is compared with another precision's."""
    if not needed:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "fp32.onnx")
        file.write_bytes(model.SerializeToString())
        yield file


def _gate_data(served: ServedNetwork, test: Split, config: Mapping[str, Any], canvases: int) -> GateData:
    if isinstance(served, SingleLabel):
        return GateData(test.images[:GATE_IMAGES], test.classes[:GATE_IMAGES])
    return GateData(_canvases(test, config, canvases))


def _canvases(test: Split, config: Mapping[str, Any], count: int) -> Images:
    """Canvases [count, 64, 64] of real test garments: of the run's own data set where that is one of outfits.

    For any other data set "outfits" serves as well, since it is arithmetic that is compared.
    """
    dataset = config.get("dataset")
    return outfits.load_split(dataset if dataset in outfits.NAMES else "outfits", "test", test, count).images
