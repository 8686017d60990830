"""Publish somebody else's ONNX file: check it, find out whether it may be batched, and add metadata."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import predecessors
from hangtag.export.errors import ExportError, GateError
from hangtag.export.file import onnx_model, versions
from hangtag.export.gate.check import AGREEMENT, BATCHING, EMPTY_BATCH, NOT_RUN, STRUCTURE
from hangtag.export.gate.checks import empty_batch
from hangtag.export.quantization.conversion import Request
from hangtag.export.repository.publishing import publish
from hangtag.export.third_party import converted, document
from hangtag.export.third_party.converted import Converted, Progress
from hangtag.export.third_party.probe_process import run_probe
from hangtag.serving.signature import PREFIX
from hangtag.training.data.division import named

# How to read the outputs may stay as the file has it. Its claims about its origin and quality are dropped: they are not
# proven here.
KEPT_KEYS = (
    "task", "labels", "label_distances", "label_distances_from", "threshold", "min_labels", "max_labels", "beam_width",
)  # fmt: skip


_GATE = (STRUCTURE, BATCHING, EMPTY_BATCH, AGREEMENT, "agreement_while_choosing", "layers", "rules", "samples")
"""The findings that are recorded as the gate's figures; those from AGREEMENT on, of a converted file alone."""


@dataclass(frozen=True)
class Accepted:
    """A published file."""

    folder: Path
    """The version's folder."""
    findings: Mapping[str, Any]
    """What the probe found, by check; JSON values."""
    metadata: Mapping[str, str]
    """The file's own metadata under ``hangtag.`` (keys without that prefix)."""
    converted: Converted | None = None
    """Of a file that was converted to another precision."""

    @property
    def summaries(self) -> dict[str, str]:
        """The findings in words, by check."""
        verdict = self.findings[BATCHING]
        how = "batched" if verdict["batched"] else "one request at a time"
        return {
            STRUCTURE: "valid ONNX, {nodes} nodes, {megabytes:.2f} MB".format(**self.findings[STRUCTURE]),
            "input": "; ".join(self.findings["inputs"]),
            "output": "; ".join(self.findings["outputs"]),
            BATCHING: f"{how}: {verdict['why']}",
            EMPTY_BATCH: self.findings[EMPTY_BATCH]["why"],
            **(self.converted.summaries if self.converted else {}),
        }


def accept(
    path: Path,
    name: str,
    models: Path,
    labels: Path | None,
    max_bytes: int = document.MAX_BYTES,
    request: Request | None = None,
    progress: Progress | None = None,
    *,
    even_if_different: bool = False,
) -> Accepted:
    """Publish a file as the next version of a model.

    Args:
        name: the model's name in the repository ``models``.
        labels: a file with the meaning of the outputs' last axis, one label per line or a JSON list.
        max_bytes: a file that is larger, external data included, is refused.
        request: convert the file to another precision first; None publishes it as it is.
        progress: gets a line about each step of the conversion.
        even_if_different: publish it also if the version that serves has other inputs, outputs or labels.

    Raises:
        ExportError: the file, the labels or the samples cannot be used, it cannot be converted, or the repository
            cannot be written.
        GateError: the file fails a check. Nothing is published in either case.

    Example:
        >>> accept(Path("resnet.onnx"), "resnet", Path("models"), Path("imagenet.txt")).folder
        PosixPath('models/resnet/1')
    """
    model = document.read(path, max_bytes)
    metadata = _metadata(model, path, labels)
    with publish(models, name) as publication:
        target = publication.model_file
        conversion = converted.convert(model, request, progress or str, shown_as=path) if request else None
        if conversion is not None:
            model = conversion.model
        _set_metadata(model, metadata)
        target.write_bytes(model.SerializeToString())
        findings = run_probe(target, shown_as=path)
        _require_labels_fit(metadata, findings["last_axes"], path)
        predecessors.require_same_contract(
            models,
            name,
            findings["inputs"],
            findings["outputs"],
            json.loads(metadata.get("labels", "[]")),
            even_if_different=even_if_different,
        )
        findings[EMPTY_BATCH] = _check_empty_batch(target, findings[BATCHING]["batched"])
        if conversion is not None:
            _require_batched_as_before(findings[BATCHING], conversion)
            findings |= conversion.findings
        metadata |= _proof(findings) | (conversion.metadata if conversion else {})
        metadata["graph_digest"] = onnx_model.digest(model)
        _set_metadata(model, metadata)
        target.write_bytes(model.SerializeToString())
        if findings["triton"] is not None:
            publication.config_file.write_text(findings["triton"], encoding="utf-8")
    return Accepted(publication.folder, findings, metadata, conversion)


def _metadata(model: onnx.ModelProto, path: Path, labels: Path | None) -> dict[str, str]:
    own = onnx_model.metadata(model)
    metadata = {key: own[key] for key in KEPT_KEYS if key in own}
    if labels is not None:
        for key in ("label_distances", "label_distances_from"):  # of other labels
            metadata.pop(key, None)
        metadata["labels"] = json.dumps(_read_labels(labels))
        metadata.setdefault("task", "single_label")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return metadata | {"source": f"{path.name}, SHA-256 {digest}", "versions": json.dumps(versions.versions())}


def _set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Replace all properties under ``hangtag.``; properties of others stay."""
    others = {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith(PREFIX)}
    onnx.helper.set_model_props(model, others)
    onnx_model.add_metadata(model, metadata)


def _read_labels(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read as text: {error}.") from error
    try:
        labels = json.loads(text)
    except ValueError:
        labels = [line.strip() for line in text.splitlines() if line.strip()]
    if not (isinstance(labels, list) and labels and all(isinstance(label, str) and label for label in labels)):
        raise ExportError(f"{path} holds no labels: expected one a line, or a JSON list of strings.")
    if repeated := [label for label, count in Counter(labels).items() if count > 1]:
        raise ExportError(f"{path} names {named(repeated)} more than once: answers could not be told apart.")
    return labels


def _require_labels_fit(metadata: Mapping[str, str], last_axes: Sequence[int | None], path: Path) -> None:
    if "labels" not in metadata:
        return
    count = len(json.loads(metadata["labels"]))
    if count not in last_axes and None not in last_axes:
        labels = "there is 1 label" if count == 1 else f"there are {count} labels"
        sizes = " or ".join(str(size) for size in last_axes)
        raise ExportError(
            f"{labels}, and the outputs of {path} have {sizes or 'no'} values a row. Nothing was published."
        )


def _require_batched_as_before(verdict: Mapping[str, Any], conversion: Converted) -> None:
    if conversion.request.batched and not verdict["batched"]:
        raise GateError(
            BATCHING,
            f"the original's requests may be batched, and those of the file in {conversion.request.precision} may not: "
            f"{verdict['why']}.",
        )


def _check_empty_batch(target: Path, batched: bool) -> dict[str, str]:
    if not batched:
        return {"outcome": NOT_RUN, "why": "not run: the model is not batched"}
    check = empty_batch.check(target)
    return {"outcome": check.figures["outcome"], "why": check.summary}


def _proof(findings: Mapping[str, Any]) -> dict[str, str]:
    return {
        "batched": json.dumps(findings[BATCHING]["batched"]),
        "gate": json.dumps({key: findings[key] for key in _GATE if key in findings}),
        "speed": json.dumps(findings["speed"]),
    }
