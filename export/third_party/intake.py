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
from hangtag.export.gate.check import AGREEMENT, BATCHING, EMPTY_BATCH, NOT_RUN, PREDECESSOR, STRUCTURE
from hangtag.export.gate.checks import empty_batch
from hangtag.export.quantization import samples
from hangtag.export.quantization.conversion import Request
from hangtag.export.quantization.samples import spread
from hangtag.export.repository.inventory import Entry, Quality
from hangtag.export.repository.publishing import publish
from hangtag.export.third_party import accuracy, converted, document, plan, probe, proof
from hangtag.export.third_party.accuracy import ACCURACY
from hangtag.export.third_party.converted import Converted
from hangtag.export.third_party.plan import Plan
from hangtag.export.third_party.proof import PICTURES
from hangtag.serving.image_spec import ImageSpec, ImageSpecError
from hangtag.training.data.pictures import HeldOut

# How to read the outputs may stay as the file has it. Its claims about its origin and quality are dropped: they are not
# proven here.
KEPT_KEYS = (
    "task", "labels", "label_distances", "label_distances_from", "threshold", "min_labels", "max_labels", "beam_width",
    "image",
)  # fmt: skip
CLASSIFY = "classify"
PROVEN = (STRUCTURE, BATCHING, EMPTY_BATCH, PICTURES, ACCURACY, PREDECESSOR, AGREEMENT)
"""The findings that are checks."""
_GATE = (*PROVEN, "agreement_while_choosing", "layers", "rules", "samples")
"""The findings that are recorded as the gate's figures; those from AGREEMENT on, of a converted file alone."""


@dataclass(frozen=True)
class Options:
    """What to make of a file.

    Attributes:
        labels: A file with the meaning of the outputs' last axis, one label per line or a JSON list.
        preprocessing: How pixels become the network's input; see ``Preprocessing.parse``.
        scores: One of ``preprocessing.SCORES``; None for what the file shows.
        data: The user's pictures with their labels, folder:PICTURES or csv:FILE, to measure the accuracy on.
        max_bytes: A file that is larger, external data included, is refused.
        conversion: To another precision; without samples of its own, by the pictures of ``data``.
        even_if_worse: Publish also if the version that serves is better, or cannot be compared.
        even_if_different: Publish also if the version that serves has other inputs, outputs or labels.
    """

    labels: Path | None = None
    preprocessing: str | None = None
    scores: str | None = None
    data: str | None = None
    max_bytes: int = document.MAX_BYTES
    conversion: Request | None = None
    even_if_worse: bool = False
    even_if_different: bool = False


@dataclass(frozen=True)
class Accepted:
    """A published file."""

    folder: Path
    """The version's folder."""
    findings: Mapping[str, Any]
    """What the probe saw, by check; JSON values."""
    metadata: Mapping[str, str]
    """The file's own metadata under ``hangtag.`` (keys without that prefix)."""
    plan: Plan
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
            **self.plan.summaries,
            **{
                check: self.findings[check]["summary"]
                for check in (PICTURES, ACCURACY, PREDECESSOR)
                if check in self.findings
            },
            **({CLASSIFY: why} if (why := self.plan.why_no_pictures(self.findings["pictures_taken"])) else {}),
            **(self.converted.summaries if self.converted else {}),
        }


def accept(path: Path, name: str, models: Path, options: Options, progress: Progress = str) -> Accepted:
    """Publish a file as the next version of a model.

    Args:
        name: the model's name in the repository ``models``.
        progress: gets a line about each step that takes long.

    Raises:
        IncomparableError: the version that serves has an accuracy, or is to be compared, and cannot be.
        ExportError: the file, the labels, the preprocessing or the samples cannot be used, it cannot be converted, or
            the repository cannot be written.
        GateError: the file fails a check.
        TrainingError: there are no such pictures. Nothing is published in any of these cases.

    Example:
        >>> accept(Path("resnet.onnx"), "resnet", Path("models"), Options(labels=Path("imagenet.txt"))).folder
        PosixPath('models/resnet/1')
    """
    with tempfile.TemporaryDirectory() as folder:
        return _Intake(path, name, models, options, progress, Path(folder)).accept()


class _Intake:
    """One file on its way into the repository."""

    def __init__(self, path: Path, name: str, models: Path, options: Options, progress: Progress, folder: Path) -> None:
        self._path, self._name, self._models, self._options = path, name, models, options
        self._progress = progress
        self._folder = folder  # for temporary files

    def accept(self) -> Accepted:
        options, path = self._options, self._path
        model = document.read(path, options.max_bytes)
        bare = self._folder / "bare.onnx"
        chosen = plan.choose(model, bare, path, options.labels, options.preprocessing, options.scores)
        if options.preprocessing is None and options.scores is not None and chosen.wrapped is None:
            raise ExportError(f"--scores is for a classifier of pictures: {chosen.reason}. Nothing was published.")
        metadata = _metadata(model, path, chosen)
        data = self._data(metadata)
        findings: dict[str, Any] = {}
        with publish(self._models, self._name) as publication:
            rival = predecessors.serving(self._models, self._name)
            if rival is not None and data is None and not options.even_if_worse:
                _require_no_figure(rival)
            if chosen.wrapped is not None:
                findings[PICTURES] = proof.compare(bare, chosen.wrapped, self._given(data), path)
                model = onnx.load(chosen.wrapped.file)
            conversion = self._converted(model, metadata, data)
            if conversion is not None:
                model = conversion.model
            target = publication.model_file
            onnx_model.write(model, metadata, target)
            findings |= probe.run(target, shown_as=path, timed=conversion is None)
            _require_labels_fit(metadata, findings["last_axes"], path)
            predecessors.require_same_contract(
                rival,
                findings["inputs"],
                findings["outputs"],
                json.loads(metadata.get("labels", "[]")),
                even_if_different=options.even_if_different,
            )
            batched = findings[BATCHING]["batched"]
            findings[EMPTY_BATCH] = _check_empty_batch(target, batched)
            if conversion is not None:
                _require_batched_as_before(findings[BATCHING], conversion)
                findings |= conversion.findings
                metadata |= conversion.metadata
            if data is not None:
                judge = accuracy.Judge(data, path, self._progress)
                measured = judge.measure(target, ImageSpec.parse(metadata["image"]), batched=batched)
                findings[ACCURACY] = measured.figures
                if rival is not None and (compared := judge.compare(measured, rival, options.even_if_worse)):
                    findings[PREDECESSOR] = compared
                metadata |= measured.metadata
            metadata |= _proof(findings) | {"graph_digest": onnx_model.digest(model)}
            onnx_model.write(model, metadata, target)
            if findings["triton"] is not None:
                publication.config_file.write_text(findings["triton"], encoding="utf-8")
        return Accepted(publication.folder, findings, metadata, chosen, conversion)

    def _data(self, metadata: Mapping[str, str]) -> HeldOut | None:
        if self._options.data is None:
            return None
        if "image" not in metadata:
            raise ExportError(
                "--data needs a file that says how a picture becomes its input: add --preprocessing. Nothing was "
                "published."
            )
        try:
            image = ImageSpec.parse(metadata["image"])
        except ImageSpecError as error:
            raise ExportError(
                f"{self._path}: its hangtag.image is malformed: {error}. Nothing was published."
            ) from error
        data = accuracy.read(self._options.data, image, json.loads(metadata.get("labels", "[]")))
        for note in data.notes:
            self._progress(note)
        return data

    def _given(self, data: HeldOut | None) -> list[str]:
        """The user's pictures; none where there are no such."""
        conversion = self._options.conversion
        if data is not None:
            return [str(picture.path) for picture in data.pictures]
        if conversion is not None and Path(conversion.samples).is_dir():
            return list(map(str, samples.files_in(Path(conversion.samples))))
        return []

    def _converted(self, model: onnx.ModelProto, metadata: Mapping[str, str], data: HeldOut | None) -> Converted | None:
        request = self._options.conversion
        if request is None:
            return None
        if not request.samples:
            assert data is not None
            chosen = data.content.images[spread(range(len(data.pictures)), samples.MOST_PICTURES)]
            request = replace(request, samples=str(self._folder / "samples.npz"))
            arrays: Any = {model.graph.input[0].name: chosen}  # numpy's stubs take no mapping of arrays
            np.savez(request.samples, **arrays)
        original = self._folder / "original.onnx"
        onnx_model.write(model, metadata, original)
        return converted.convert(original, request, self._progress, shown_as=self._path)


def _metadata(model: onnx.ModelProto, path: Path, chosen: Plan) -> dict[str, str]:
    own = onnx_model.metadata(model)
    metadata = {key: own[key] for key in KEPT_KEYS if key in own}
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
