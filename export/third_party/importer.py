"""Publish a third-party ONNX file: check it, make it a classifier if preprocessing is stated, add metadata."""

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
from hangtag.export.gate.check import ACCURACY, AGREEMENT, BATCHING, PICTURES, PREDECESSOR, STRUCTURE
from hangtag.export.quantization import calibration_samples
from hangtag.export.quantization.calibration_samples import spread
from hangtag.export.quantization.precision import model_name
from hangtag.export.repository.inventory import Quality
from hangtag.export.repository.publishing import publish
from hangtag.export.third_party import conversion, onnx_document, plan, probe
from hangtag.export.third_party.import_options import ImportOptions
from hangtag.export.third_party.judge import Judge, prove
from hangtag.export.third_party.plan import Plan
from hangtag.serving.signature import Signature

# These keys describe the input and the outputs, so they keep the file's values. The file's other claims, about its
# origin and its quality, are dropped, because the import does not check them.
_KEPT_KEYS = (
    "task", "labels", "label_distances", "label_distances_from", "threshold", "min_labels", "max_labels", "beam_width",
    "image",
)  # fmt: skip
_GATE = (
    STRUCTURE, BATCHING, PICTURES, ACCURACY, PREDECESSOR, AGREEMENT, "agreement_while_choosing", "layers",
    "rules", "samples",
)  # fmt: skip
"""The findings that the file's metadata record. Only a converted file has AGREEMENT and the keys that follow it."""


def accept(path: Path, options: ImportOptions, progress: Progress = str) -> tuple[Path, dict[str, str]]:
    """Publish a file as the next version of a model.

    Args:
        path: the file.
        options: the options of the command.
        progress: called with a line about each long step.

    Returns:
        The version's folder, and a summary of each check.

    Raises:
        ExportError: One of: the file, the labels, the preprocessing or the samples cannot be used; the file cannot be
            converted; the accuracy cannot be compared with that of the served version; the repository cannot be
            written.
        GateError: the file fails a check.
        UserError: the pictures do not exist. Nothing is published in any of these cases.

    Example:
        >>> accept(Path("resnet.onnx"), ImportOptions(name="resnet", labels=Path("imagenet.txt")))[0]
        PosixPath('models/resnet/1')
    """
    name, converts = model_name(options.name, options.precision), options.precision != "fp32"
    model = onnx_document.read(path)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bare, file = folder / "bare.onnx", folder / "original.onnx"
        chosen = plan.choose(model, bare, path, options)
        if options.preprocessing is None and options.scores is not None and chosen.wrapped is None:
            raise ExportError(f"--scores is for a classifier of pictures: {chosen.reason}. Nothing was published.")
        metadata = _metadata(model, path, chosen)
        if chosen.wrapped is not None:
            model = onnx.load(chosen.wrapped.file)
        onnx_model.write(model, metadata, file)
        with publish(options.models, name) as publication:
            findings = probe.run(file, shown_as=path)
            signature: Signature = findings["signature"]
            names = json.loads(metadata.get("labels", "[]"))
            _require_labels_fit(names, signature, path)
            rival = predecessors.serving(options.models, name)
            contract = signature.inputs, signature.outputs, names, signature.image
            predecessors.require_same_contract(rival, *contract, even_if_different=options.even_if_different)
            data = None if options.data is None else _judge(options.data, signature, path, chosen.reason, progress)
            figure = None if rival is None or options.even_if_worse else Quality.of(rival.metadata)
            if rival is not None and data is None and figure is not None:
                remedy = "Measure both with --data folder:PICTURES, or add --even-if-worse"
                raise predecessors.incomparable(rival, f"has {figure}", remedy)
            if chosen.wrapped is not None:
                findings[PICTURES] = prove(bare, chosen.wrapped, path)
            in_words: Mapping[str, str] = {}
            if converts:
                if data is not None:
                    options, data = _apart(options, data)
                batched = findings[BATCHING]["batched"]
                model, figures, in_words = conversion.convert(file, options, progress, shown_as=path)
                file = folder / "published.onnx"
                onnx_model.write(model, metadata, file)
                findings |= {**probe.run(file, shown_as=path), **figures}
                if batched and not findings[BATCHING]["batched"]:
                    why = f"requests to the {options.precision} file may not be batched: {findings[BATCHING]['why']}."
                    raise GateError(BATCHING, f"requests to the original may be batched, but {why}")
                metadata |= {"precision": options.precision, "fp32_layers": json.dumps(figures["fp32_layers"])}
                metadata["processor"] = onnx_model.processor()
            verdict = findings[BATCHING]
            if data is not None:
                measured = data.measure(file, data.data.image, batched=verdict["batched"])
                findings[ACCURACY] = measured.figures
                if rival is not None and (compared := data.compare(measured, rival, options.even_if_worse)):
                    findings[PREDECESSOR] = compared
                metadata |= measured.metadata
            metadata |= {
                "batched": json.dumps(verdict["batched"]),
                "gate": json.dumps({key: findings[key] for key in _GATE if key in findings}),
                "graph_digest": onnx_model.digest(model),
            }
            onnx_model.write(model, metadata, publication.model_file)
        return publication.folder, _summaries(findings, chosen) | dict(in_words)


def _judge(pictures: str, signature: Signature, path: Path, why: str, progress: Progress) -> Judge:
    if signature.task == "multi_label":
        why = "it answers with sets of labels"
    elif signature.labels[:1] == ("LABEL_0",):  # Hugging Face's placeholder for a missing name
        why = "its labels have no names (LABEL_0 and so on): name them with --labels FILE"
    elif signature.image is not None:
        return Judge.of(pictures, signature.image, signature.labels, path, progress)
    raise ExportError(
        f"--data needs a classifier with one label per picture, and {path} is not one: {why}. Nothing was published."
    )


def _metadata(model: onnx.ModelProto, path: Path, chosen: Plan) -> dict[str, str]:
    own = onnx_model.metadata(model)
    metadata = {key: own[key] for key in _KEPT_KEYS if key in own}
    if chosen.stated.labels is not None and json.dumps(chosen.stated.labels) != own.get("labels"):
        for key in ("label_distances", "label_distances_from"):  # these distances belong to the file's former labels
            metadata.pop(key, None)
        metadata["labels"] = json.dumps(chosen.stated.labels)
        metadata.setdefault("task", "single_label")
    metadata |= chosen.metadata
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return metadata | {"source": f"{path.name}, SHA-256 {digest}", "versions": json.dumps(onnx_model.versions())}


def _apart(options: ImportOptions, data: Judge) -> tuple[ImportOptions, Judge]:
    """Use the pictures as samples, if the options name no samples. The returned ``Judge`` measures the accuracy only on
    pictures that are not samples."""
    given = spread(data.files, calibration_samples.MOST_PICTURES) if options.samples is None else options.samples
    return replace(options, samples=given), data.without(
        calibration_samples.making(calibration_samples.pictures(given))
    )


def _require_labels_fit(labels: Sequence[str], signature: Signature, path: Path) -> None:
    last_axes = [spec.shape[-1] for spec in signature.outputs if spec.shape]
    if labels and len(labels) not in last_axes and None not in last_axes:
        there = "there is 1 label" if len(labels) == 1 else f"there are {len(labels)} labels"
        sizes = " or ".join(map(str, last_axes))
        raise ExportError(f"{there}, but a row of {path}'s outputs has {sizes or 'no'} values. Nothing was published.")


def _summaries(findings: Mapping[str, Any], chosen: Plan) -> dict[str, str]:
    signature: Signature = findings["signature"]
    verdict = findings[BATCHING]
    why_no_pictures = chosen.why_no_pictures(signature)
    return {
        STRUCTURE: "valid ONNX, {nodes} nodes, {megabytes:.2f} MB".format(**findings[STRUCTURE]),
        "input": "; ".join(map(str, signature.inputs)),
        "output": "; ".join(map(str, signature.outputs)),
        BATCHING: f"{'batched' if verdict['batched'] else 'one request at a time'}: {verdict['why']}",
        **chosen.summaries,
        **{check: findings[check]["summary"] for check in (PICTURES, ACCURACY, PREDECESSOR) if check in findings},
        **({"classify": why_no_pictures} if why_no_pictures else {}),
        **({} if why_no_pictures or ACCURACY in findings else {ACCURACY: "not measured: give pictures with --data"}),
    }
