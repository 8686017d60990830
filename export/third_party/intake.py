"""Publish somebody else's ONNX file: check it, make it a classifier of pictures where that is stated, add metadata."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import predecessors
from hangtag.export.child_process import Progress
from hangtag.export.errors import ExportError, GateError
from hangtag.export.file import onnx_model
from hangtag.export.gate import batching
from hangtag.export.gate.check import AGREEMENT, BATCHING, EMPTY_BATCH, NOT_RUN, PREDECESSOR, STRUCTURE
from hangtag.export.quantization import samples
from hangtag.export.quantization.samples import spread
from hangtag.export.repository.inventory import Quality
from hangtag.export.repository.publishing import publish
from hangtag.export.third_party import conversion, document, plan, probe
from hangtag.export.third_party.conversion import Request
from hangtag.export.third_party.pictures import ACCURACY, PICTURES, Judge, prove
from hangtag.export.third_party.plan import Plan
from hangtag.serving.image_spec import ImageSpec, ImageSpecError
from hangtag.serving.signature import Signature

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


def accept(
    path: Path,
    name: str,
    models: Path,
    *,
    labels: Path | None = None,
    preprocessing: str | None = None,
    scores: str | None = None,
    pictures: str | None = None,
    request: Request | None = None,
    even_if_worse: bool = False,
    even_if_different: bool = False,
    progress: Progress = str,
) -> tuple[Path, dict[str, str]]:
    """Publish a file as the next version of a model.

    Args:
        path: the file.
        name: the model's name in the repository ``models``.
        labels: a file with the meaning of the outputs' last axis, one label per line or a JSON list.
        preprocessing: how pixels become the network's input; see ``Stated.parse``.
        scores: one of ``preprocessing.SCORES``; None for what the file shows.
        pictures: the user's, with their labels, folder:PICTURES or csv:FILE, to measure the accuracy on.
        request: for another precision; without samples of its own, by these pictures.
        even_if_worse: publish also if the version that serves is better, or cannot be compared.
        even_if_different: publish also if the version that serves has other inputs, outputs or labels.
        progress: gets a line about each step that takes long.

    Returns:
        The version's folder; and what was measured and proven, in words, by check.

    Raises:
        ExportError: the file, the labels, the preprocessing or the samples cannot be used, it cannot be converted, the
            repository cannot be written, or the version that serves has an accuracy, and cannot be compared.
        GateError: the file fails a check.
        TrainingError: there are no such pictures. Nothing is published in any of these cases.

    Example:
        >>> accept(Path("resnet.onnx"), "resnet", Path("models"), labels=Path("imagenet.txt"))[0]
        PosixPath('models/resnet/1')
    """
    model = document.read(path)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bare = folder / "bare.onnx"
        chosen = plan.choose(model, bare, path, labels, preprocessing, scores)
        if preprocessing is None and scores is not None and chosen.wrapped is None:
            raise ExportError(f"--scores is for a classifier of pictures: {chosen.reason}. Nothing was published.")
        metadata = _metadata(model, path, chosen)
        data = None
        if pictures is not None:
            if "image" not in metadata:
                raise ExportError(
                    "--data needs a file that says how a picture becomes its input: add --preprocessing. Nothing was "
                    "published."
                )
            try:
                image = ImageSpec.parse(metadata["image"])
            except ImageSpecError as error:
                raise ExportError(f"{path}: its hangtag.image is malformed: {error}. Nothing was published.") from error
            data = Judge.of(pictures, image, json.loads(metadata.get("labels", "[]")), path, progress)
        findings: dict[str, Any] = {}
        with publish(models, name) as publication:
            rival = predecessors.serving(models, name)
            if rival is not None and data is None and not even_if_worse and (figure := Quality.of(rival.metadata)):
                remedy = "Measure both with --data folder:PICTURES, or add --even-if-worse"
                raise predecessors.incomparable(rival, f"has {figure}", remedy)
            if chosen.wrapped is not None:
                findings[PICTURES] = prove(bare, chosen.wrapped, _pictures(data, request), path)
                model = onnx.load(chosen.wrapped.file)
            converted = None
            if request is not None:
                original = folder / "original.onnx"
                onnx_model.write(model, metadata, original)
                if data is not None and request.samples is None:
                    chosen_pictures = spread(data.files, samples.MOST_PICTURES)
                    request = replace(request, samples=chosen_pictures)
                converted = conversion.convert(original, request, progress, shown_as=path)
                model = converted.model
            target = publication.model_file
            onnx_model.write(model, metadata, target)
            findings |= probe.run(target, shown_as=path, timed=converted is None)
            signature: Signature = findings["signature"]
            names = json.loads(metadata.get("labels", "[]"))
            _require_labels_fit(names, signature, path)
            predecessors.require_same_contract(
                rival, signature.inputs, signature.outputs, names, even_if_different=even_if_different
            )
            verdict = findings[BATCHING]
            findings[EMPTY_BATCH] = _check_empty_batch(target, verdict["batched"])
            if converted is not None:
                if converted.batched and not verdict["batched"]:
                    precision = converted.metadata["precision"]
                    why = f"and those of the file in {precision} may not: {verdict['why']}."
                    raise GateError(BATCHING, f"the original's requests may be batched, {why}")
                findings |= converted.figures
                metadata |= converted.metadata
            if data is not None:
                measured = data.measure(target, data.data.image, batched=verdict["batched"])
                findings[ACCURACY] = measured.figures
                if rival is not None and (compared := data.compare(measured, rival, even_if_worse)):
                    findings[PREDECESSOR] = compared
                metadata |= measured.metadata
            metadata |= {
                "batched": json.dumps(verdict["batched"]),
                "gate": json.dumps({key: findings[key] for key in _GATE if key in findings}),
                "speed": json.dumps(findings["speed"].figures),
                "graph_digest": onnx_model.digest(model),
            }
            onnx_model.write(model, metadata, target)
            if findings["triton"] is not None:
                publication.config_file.write_text(findings["triton"], encoding="utf-8")
        return publication.folder, _summaries(findings, chosen) | dict(converted.summaries if converted else {})


def _metadata(model: onnx.ModelProto, path: Path, chosen: Plan) -> dict[str, str]:
    own = onnx_model.metadata(model)
    metadata = {key: own[key] for key in _KEPT_KEYS if key in own}
    if chosen.stated.labels is not None and json.dumps(chosen.stated.labels) != own.get("labels"):
        for key in ("label_distances", "label_distances_from"):  # of other labels
            metadata.pop(key, None)
        metadata["labels"] = json.dumps(chosen.stated.labels)
        metadata.setdefault("task", "single_label")
    metadata |= chosen.metadata
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return metadata | {"source": f"{path.name}, SHA-256 {digest}", "versions": json.dumps(onnx_model.versions())}


def _pictures(data: Judge | None, request: Request | None) -> list[str]:
    """Paths of the user's pictures; none where there are no such."""
    if data is not None:
        return data.files
    if request is not None and isinstance(request.samples, Path) and request.samples.is_dir():
        return list(map(str, samples.files_in(request.samples)))
    return []


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
