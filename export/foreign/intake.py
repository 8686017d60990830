"""``hangtag export --onnx``: check somebody else's file, find out whether it may be batched, add metadata, publish."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model as graph
from hangtag.export.file import provenance
from hangtag.export.foreign import document
from hangtag.export.foreign import probe_process as child
from hangtag.export.gate.checks import batching
from hangtag.export.repository import publishing as repository
from hangtag.serving.model_repository import CONFIG_FILE
from hangtag.serving.signature import PREFIX

# What tells a server how to read the outputs may stay as it came; where a model came from, and how good it is, is told
# by who publishes it.
KEPT = (
    "task", "labels", "label_distances", "label_distances_from", "threshold", "min_labels", "max_labels", "beam_width",
)  # fmt: skip


@dataclass(frozen=True)
class Accepted:
    """Where the model went, what was found out about it, and its metadata (keys without their prefix)."""

    folder: Path
    found: Mapping[str, Any]
    metadata: Mapping[str, str]

    @property
    def said(self) -> dict[str, str]:
        """What was found, by check, in words."""
        verdict, empty = self.found["batching"], self.found["empty batch"]
        how = "batched" if verdict["batched"] else "one request at a time"
        return {
            "structure": "valid ONNX, {nodes} nodes, {megabytes:.2f} MB".format(**self.found["structure"]),
            "input": "; ".join(self.found["inputs"]),
            "output": "; ".join(self.found["outputs"]),
            "batching": f"{how}: {verdict['why']}",
            "empty batch": empty["why"],
        }


def accept(path: Path, name: str, models: Path, labels: Path | None, max_bytes: int = document.MAX_BYTES) -> Accepted:
    """Publish the file as the next version of the model of this name.

    Raises ExportError, and GateError, which say what is wrong; nothing is published then.
    """
    model = document.read(path, max_bytes)
    told = _metadata(model, path, labels)
    onnx.helper.set_model_props(model, {PREFIX + key: value for key, value in told.items()} | _of_others(model))
    accepted: list[Accepted] = []

    def write(target: Path) -> None:
        target.write_bytes(model.SerializeToString())
        found = child.ask(target, path)
        _require_labels_fit(told, found["last_axes"], path)
        found["empty batch"] = _empty(target, found["batching"]["batched"])
        proven = _proof(found) | {"graph_digest": graph.digest(target)}
        onnx.helper.set_model_props(
            model, {entry.key: entry.value for entry in model.metadata_props} | _prefixed(proven)
        )
        target.write_bytes(model.SerializeToString())
        if found["triton"] is not None:
            (target.parent.parent / CONFIG_FILE).write_text(found["triton"], encoding="utf-8")
        accepted.append(Accepted(target, found, told | proven))

    folder = repository.publish(models, name, write)
    return replace(accepted[0], folder=folder)


def _metadata(model: onnx.ModelProto, path: Path, labels: Path | None) -> dict[str, str]:
    there = {entry.key: entry.value for entry in model.metadata_props}
    told = {key: there[PREFIX + key] for key in KEPT if PREFIX + key in there}
    if labels is not None:
        for key in ("label_distances", "label_distances_from"):  # of other labels
            told.pop(key, None)
        told["labels"] = json.dumps(_read_labels(labels))
        told.setdefault("task", "single_label")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return told | {"source": f"{path.name}, SHA-256 {digest}", "versions": json.dumps(provenance.versions())}


def _of_others(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith(PREFIX)}


def _prefixed(metadata: Mapping[str, str]) -> dict[str, str]:
    return {PREFIX + key: value for key, value in metadata.items()}


def _read_labels(path: Path) -> list[str]:
    """A JSON list, or a label a line."""
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
    return labels


def _empty(target: Path, batched: bool) -> dict[str, str]:
    if not batched:
        return {"outcome": "not asked", "why": "not asked: it is not batched"}
    check = batching.check_empty(target)
    return {"outcome": check.figures["outcome"], "why": check.said}


def _require_labels_fit(told: Mapping[str, str], last_axes: Sequence[int | None], path: Path) -> None:
    if "labels" not in told:
        return
    count = len(json.loads(told["labels"]))
    if count not in last_axes and None not in last_axes:
        there = "there is 1 label" if count == 1 else f"there are {count} labels"
        sizes = " or ".join(str(size) for size in last_axes)
        raise ExportError(
            f"{there}, and the outputs of {path} have {sizes or 'no'} values a row. Nothing was published."
        )


def _proof(found: Mapping[str, Any]) -> dict[str, str]:
    return {
        "batched": json.dumps(found["batching"]["batched"]),
        "gate": json.dumps({key: found[key] for key in ("structure", "batching", "empty batch")}),
        "speed": json.dumps(found["speed"]),
    }
