"""Publish somebody else's ONNX file: check it, make it a classifier of pictures where that is stated, add metadata."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hangtag.export import predecessors
from hangtag.export.child_process import Progress
from hangtag.export.errors import ExportError, GateError
from hangtag.export.file import onnx_model
from hangtag.export.gate import batching
from hangtag.export.gate.check import AGREEMENT, BATCHING, EMPTY_BATCH, NOT_RUN, PREDECESSOR, STRUCTURE
from hangtag.export.quantization import samples
from hangtag.export.quantization.samples import spread
from hangtag.export.repository.inventory import Entry, Quality
from hangtag.export.repository.publishing import publish
from hangtag.export.third_party import accuracy, conversion, document, plan, probe, proof
from hangtag.export.third_party.accuracy import ACCURACY, Labelled
from hangtag.export.third_party.conversion import Request
from hangtag.export.third_party.plan import Plan
from hangtag.export.third_party.proof import PICTURES
from hangtag.serving.image_spec import ImageSpec, ImageSpecError
from hangtag.serving.signature import Signature
from hangtag.training.data.pictures import prepared

# How to read the outputs may stay as the file has it. Its claims about its origin and quality are dropped: they are not
# proven here.
_KEPT_KEYS = (
    "task", "labels", "label_distances", "label_distances_from", "threshold", "min_labels", "max_labels", "beam_width",
    "image",
)  # fmt: skip
_GATE = (
    STRUCTURE, BATCHING, EMPTY_BATCH, PICTURES, ACCURACY, PREDECESSOR, AGREEMENT, "agreement_while_choosing", "layers",
    "rules", "samples",
)  # fmt: skip
"""The findings that are recorded as the gate's figures; those from AGREEMENT on, of a converted file alone."""


@dataclass(frozen=True)
class Options:
    """What to make of a file.

    Attributes:
        labels: A file with the meaning of the outputs' last axis, one label per line or a JSON list.
        preprocessing: How pixels become the network's input; see ``Preprocessing.parse``.
        scores: One of ``preprocessing.SCORES``; None for what the file shows.
        data: The user's pictures with their labels, folder:PICTURES or csv:FILE, to measure the accuracy on.
        conversion: To another precision; without samples of its own, by the pictures of ``data``.
        even_if_worse: Publish also if the version that serves is better, or cannot be compared.
        even_if_different: Publish also if the version that serves has other inputs, outputs or labels.
    """

    labels: Path | None = None
    preprocessing: str | None = None
    scores: str | None = None
    data: str | None = None
    conversion: Request | None = None
    even_if_worse: bool = False
    even_if_different: bool = False


@dataclass(frozen=True)
class Accepted:
    """A published file.

    Attributes:
        folder: The version's folder.
        summaries: What was measured and proven, in words, by check.
    """

    folder: Path
    summaries: Mapping[str, str]


def accept(path: Path, name: str, models: Path, options: Options, progress: Progress = str) -> Accepted:
    """Publish a file as the next version of a model.

    Args:
        name: the model's name in the repository ``models``.
        progress: gets a line about each step that takes long.

    Raises:
        ExportError: the file, the labels, the preprocessing or the samples cannot be used, it cannot be converted, the
            repository cannot be written, or the version that serves has an accuracy, and cannot be compared.
        GateError: the file fails a check.
        TrainingError: there are no such pictures. Nothing is published in any of these cases.

    Example:
        >>> accept(Path("resnet.onnx"), "resnet", Path("models"), Options(labels=Path("imagenet.txt"))).folder
        PosixPath('models/resnet/1')
    """
    with tempfile.TemporaryDirectory() as folder:
        return _accept(path, name, models, options, progress, Path(folder))


def _accept(path: Path, name: str, models: Path, options: Options, progress: Progress, folder: Path) -> Accepted:
    model = document.read(path)
    bare = folder / "bare.onnx"
    chosen = plan.choose(model, bare, path, options.labels, options.preprocessing, options.scores)
    if options.preprocessing is None and options.scores is not None and chosen.wrapped is None:
        raise ExportError(f"--scores is for a classifier of pictures: {chosen.reason}. Nothing was published.")
    metadata = _metadata(model, path, chosen)
    data = _data(options, metadata, path)
    findings: dict[str, Any] = {}
    with publish(models, name) as publication:
        rival = predecessors.serving(models, name)
        if rival is not None and data is None and not options.even_if_worse:
            _require_no_figure(rival)
        if chosen.wrapped is not None:
            findings[PICTURES] = proof.compare(bare, chosen.wrapped, _pictures(data, options.conversion), path)
            model = onnx.load(chosen.wrapped.file)
        converted = None
        if options.conversion is not None:
            original = folder / "original.onnx"
            onnx_model.write(model, metadata, original)
            request = options.conversion
            if request.samples is None:
                assert data is not None
                request = replace(request, samples=folder / "samples.npz")
                _save_samples(data, metadata, model.graph.input[0].name, folder / "samples.npz")
            converted = conversion.convert(original, request, progress, shown_as=path)
            model = converted.model
        target = publication.model_file
        onnx_model.write(model, metadata, target)
        findings |= probe.run(target, shown_as=path, timed=converted is None)
        signature: Signature = findings["signature"]
        labels = json.loads(metadata.get("labels", "[]"))
        _require_labels_fit(labels, signature, path)
        predecessors.require_same_contract(
            rival, signature.inputs, signature.outputs, labels, even_if_different=options.even_if_different
        )
        verdict = findings[BATCHING]
        findings[EMPTY_BATCH] = _check_empty_batch(target, verdict["batched"])
        if converted is not None:
            if converted.batched and not verdict["batched"]:
                raise GateError(
                    BATCHING,
                    f"the original's requests may be batched, and those of the file in {request.precision} may not: "
                    f"{verdict['why']}.",
                )
            findings |= converted.figures
            metadata |= converted.metadata
        if data is not None:
            judge = accuracy.Judge(data, path, progress)
            measured = judge.measure(target, ImageSpec.parse(metadata["image"]), batched=verdict["batched"])
            findings[ACCURACY] = measured.figures
            if rival is not None and (compared := judge.compare(measured, rival, options.even_if_worse)):
                findings[PREDECESSOR] = compared
            metadata |= measured.metadata
        metadata |= {
            "batched": json.dumps(verdict["batched"]),
            "gate": json.dumps({key: findings[key] for key in _GATE if key in findings}),
            "speed": json.dumps(findings["speed"]),
            "graph_digest": onnx_model.digest(model),
        }
        onnx_model.write(model, metadata, target)
        if findings["triton"] is not None:
            publication.config_file.write_text(findings["triton"], encoding="utf-8")
    summaries = _summaries(findings, chosen) | dict(converted.summaries if converted else {})
    return Accepted(publication.folder, summaries)


def _metadata(model: onnx.ModelProto, path: Path, chosen: Plan) -> dict[str, str]:
    own = onnx_model.metadata(model)
    metadata = {key: own[key] for key in _KEPT_KEYS if key in own}
    if chosen.labels is not None and json.dumps(chosen.labels) != own.get("labels"):
        for key in ("label_distances", "label_distances_from"):  # of other labels
            metadata.pop(key, None)
        metadata["labels"] = json.dumps(chosen.labels)
        metadata.setdefault("task", "single_label")
    metadata |= chosen.metadata
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return metadata | {"source": f"{path.name}, SHA-256 {digest}", "versions": json.dumps(onnx_model.versions())}


def _require_no_figure(rival: Entry) -> None:
    """Require that a version whose accuracy is known is not replaced by a file whose accuracy is not."""
    if (recorded := Quality.of(rival.metadata)) is not None:
        remedy = "Measure both with --data folder:PICTURES, or add --even-if-worse"
        raise predecessors.incomparable(rival, f"has {recorded}", remedy)


def _data(options: Options, metadata: Mapping[str, str], path: Path) -> Labelled | None:
    """The user's pictures with their labels, where they are given."""
    if options.data is None:
        return None
    if "image" not in metadata:
        raise ExportError(
            "--data needs a file that says how a picture becomes its input: add --preprocessing. Nothing was published."
        )
    try:
        ImageSpec.parse(metadata["image"])
    except ImageSpecError as error:
        raise ExportError(f"{path}: its hangtag.image is malformed: {error}. Nothing was published.") from error
    return accuracy.read(options.data, json.loads(metadata.get("labels", "[]")))


def _pictures(data: Labelled | None, request: Request | None) -> list[str]:
    """Paths of the user's pictures; none where there are no such."""
    if data is not None:
        return [path for path, _ in data.files]
    if request is not None and request.samples is not None and request.samples.is_dir():
        return list(map(str, samples.files_in(request.samples)))
    return []


def _save_samples(data: Labelled, metadata: Mapping[str, str], name: str, file: Path) -> None:
    """Write pictures as the samples of an input with this name."""
    spec = ImageSpec.parse(metadata["image"])
    chosen = [prepared(Path(path), spec) for path, _ in spread(data.files, samples.MOST_PICTURES)]
    arrays: Any = {name: np.stack(chosen)}  # numpy's stubs take no mapping of arrays
    np.savez(file, **arrays)


def _require_labels_fit(labels: Sequence[str], signature: Signature, path: Path) -> None:
    last_axes = [spec.shape[-1] for spec in signature.outputs if spec.shape]
    if labels and len(labels) not in last_axes and None not in last_axes:
        there = "there is 1 label" if len(labels) == 1 else f"there are {len(labels)} labels"
        sizes = " or ".join(map(str, last_axes))
        raise ExportError(
            f"{there}, and the outputs of {path} have {sizes or 'no'} values a row. Nothing was published."
        )


def _check_empty_batch(target: Path, batched: bool) -> dict[str, str]:
    if not batched:
        return {"outcome": NOT_RUN, "why": "not run: the model is not batched"}
    check = batching.check_empty(target)
    return {"outcome": check.figures["outcome"], "why": check.summary}


def _summaries(findings: Mapping[str, Any], chosen: Plan) -> dict[str, str]:
    signature: Signature = findings["signature"]
    verdict = findings[BATCHING]
    why_no_pictures = chosen.why_no_pictures(signature)
    return {
        STRUCTURE: "valid ONNX, {nodes} nodes, {megabytes:.2f} MB".format(**findings[STRUCTURE]),
        "input": "; ".join(map(str, signature.inputs)),
        "output": "; ".join(map(str, signature.outputs)),
        BATCHING: f"{'batched' if verdict['batched'] else 'one request at a time'}: {verdict['why']}",
        EMPTY_BATCH: findings[EMPTY_BATCH]["why"],
        **chosen.summaries,
        **{check: findings[check]["summary"] for check in (PICTURES, ACCURACY, PREDECESSOR) if check in findings},
        **({"classify": why_no_pictures} if why_no_pictures else {}),
    }
