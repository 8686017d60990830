"""Decide from the options, the file and its companion files whether to publish the file as a classifier of pictures."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from hangtag.errors import reason
from hangtag.export import child_process
from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model
from hangtag.export.gate.check import STRUCTURE
from hangtag.export.third_party import companions, wrapping
from hangtag.export.third_party.import_options import ImportOptions
from hangtag.export.third_party.preprocessing import Stated
from hangtag.export.third_party.wrapping import Wrapped
from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.signature import Signature, TensorSpec, UnsupportedModelError


@dataclass(frozen=True)
class Plan:
    """Says how to publish a file: as a classifier of pictures or unchanged.

    Attributes:
        wrapped: The classifier; None if the graph is published unchanged.
        stated: The labels, and the sources and notes to record and to print.
        reason: The reason why the file cannot become a classifier.
        dropped: The companion files' preprocessing, which is ignored because the file cannot become a classifier.
        image: The image description of a file that hangtag turned into a classifier earlier; None for other files.
    """

    wrapped: Wrapped | None
    stated: Stated
    reason: str = ""
    dropped: str = ""
    image: ImageSpec | None = None

    @property
    def summaries(self) -> dict[str, str]:
        """The lines to print: name -> text."""
        rows = {}
        if self.dropped:
            rows["WARNING"] = f"{self.dropped} was read, but is not part of the published file, because {self.reason}"
        if self.wrapped is not None:
            rows["image"] = f"the file prepares pictures by {self.wrapped.steps}; its scores are {self.wrapped.scores}"
        if self.image is not None:
            rows["image"] = f"the file already prepares pictures, and has labels: {self.image}"
        if self.stated.sources:
            rows["taken"] = "; ".join(self.stated.sources)
        if notes := (*self.stated.notes, *self.stated.problems):
            rows["note"] = "; ".join(notes)
        return rows

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata about the image and its origin (keys without their prefix)."""
        if self.image is not None:  # files of earlier releases have no image description
            return {"image": json.dumps(self.image.as_json())}
        if self.wrapped is None:
            return {}
        steps = self.wrapped.steps
        described = {
            "task": "single_label", "image": json.dumps(steps.spec.as_json()), "preprocessing": str(steps),
        }  # fmt: skip
        return described | ({"taken": json.dumps(self.stated.sources)} if self.stated.sources else {})

    def why_no_pictures(self, signature: Signature) -> str | None:
        """Return why `hangtag classify` cannot classify every picture with the published file; None if it can."""
        if signature.picture_shape is None:
            why = self.reason or "it needs one UINT8 input of pictures, an output named 'probabilities', and labels"
            return f"`hangtag classify` will not accept pictures: {why}"
        if signature.image is None:
            return "takes pictures of exactly its size: add --preprocessing fit=stretch|crop|pad for other sizes"
        return None


def choose(model: onnx.ModelProto, bare: Path, path: Path, options: ImportOptions) -> Plan:
    """Make a classifier of pictures if the preprocessing is stated. Options take precedence over companion files.

    Args:
        model: The network.
        bare: The path to which the network is written, with its external data. The classifier goes to the same folder.
        path: The user's file.
        options: The options of the command.

    Raises:
        ExportError: One of: the labels cannot be read; --preprocessing does not fit the network or the labels; hangtag
            turned the file into a classifier earlier, and an option contradicts it.
        GateError: the process that adds the preprocessing crashes or does not finish in time.
    """
    preprocessing, scores = options.preprocessing, options.scores
    given, notes = (None, ()) if options.labels is None else _read_labels(options.labels)
    own_labels, own_image = _own_description(model)
    if own_image is not None:
        renames = given not in (None, own_labels)
        contradictions = {"--labels": renames, "--preprocessing": preprocessing, "--scores": scores}
        if flags := [flag for flag, contradicts in contradictions.items() if contradicts]:
            raise ExportError(
                f"{path} is already a classifier of hangtag, and has its own labels, preprocessing and probabilities: "
                f"leave out {' and '.join(flags)}. Nothing was published."
            )
        return Plan(None, Stated(), image=own_image)
    written = companions.read(path, model)
    known = given or written.labels
    if written.problems and not (known and preprocessing):
        wins = "state all steps with --preprocessing, which overrides the file"
        remedy = wins if known else "give both --preprocessing and --labels, which override the file"
        raise ExportError(
            f"{'; '.join(written.problems)}. Correct the file, move it away, or {remedy}. Nothing was published."
        )
    stated = Stated.parse(preprocessing or "", labels=given or own_labels, scores=scores, notes=notes).over(written)
    unwrapped = Stated(labels=given, notes=stated.notes, problems=stated.problems)
    if not (preprocessing or str(stated)):
        return Plan(
            None, unwrapped, "it is unknown how pixels become its input: add --preprocessing (for UINT8, fit=stretch)"
        )
    bare.write_bytes(model.SerializeToString())
    wrapped = child_process.run(
        wrapping.wrap, bare, bare.with_name("classifier.onnx"), stated, shown_as=path, check=STRUCTURE
    )
    if isinstance(wrapped, str):
        if preprocessing is not None:
            raise ExportError(f"{path}: {wrapped} Nothing was published.")
        origin = f" ({'; '.join(stated.sources)})" if stated.sources else ""
        return Plan(None, unwrapped, wrapped.rstrip(".") + origin, dropped=f"the preprocessing {stated}")
    sources = [one for one in stated.sources if stated.labels == written.labels or " labels from " not in one]
    if sources and preprocessing:
        sources.append(f"--preprocessing {preprocessing} takes precedence over these")
    if sources and scores:
        sources.append(f"--scores {scores} too")
    return Plan(wrapped, replace(stated, sources=tuple(sources)))


def _read_labels(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a file's labels, and notes about renamed ones. Raises ExportError if the file is unreadable or empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read as text: {reason(error)}.") from error
    try:
        labels = json.loads(text)
    except ValueError:
        labels = [line.strip() for line in text.splitlines() if line.strip()]
    if not (isinstance(labels, list) and labels and all(isinstance(label, str) and label for label in labels)):
        raise ExportError(f"{path} holds no labels: expected one label per line, or a JSON list of strings.")
    return companions.distinct(labels, str(path))


def _own_description(model: onnx.ModelProto) -> tuple[tuple[str, ...] | None, ImageSpec | None]:
    """Return the labels in a file's metadata and, if hangtag made the file a classifier, its image description."""
    inputs, outputs = (
        tuple(TensorSpec(value.name, wrapping.datatype(value), tuple(wrapping.shape(value))) for value in values)
        for values in (model.graph.input, model.graph.output)
    )
    signature = Signature(inputs, outputs, onnx_model.metadata(model))
    try:
        return signature.labels or None, signature.image if signature.picture_shape else None
    except UnsupportedModelError:
        return None, None  # the probe later refuses the file, and names the malformed property
