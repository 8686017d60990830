"""Decide whether a file is to be a classifier of pictures, by the options and by the files that lie with it."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from hangtag.export import child_process
from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model
from hangtag.export.gate.check import BATCHING, STRUCTURE
from hangtag.export.third_party import companions, probe, wrapping
from hangtag.export.third_party.preprocessing import Stated
from hangtag.export.third_party.wrapping import Wrapped
from hangtag.printable import named
from hangtag.serving.signature import Signature


@dataclass(frozen=True)
class Plan:
    """What a file is published as.

    Attributes:
        wrapped: The classifier; None where the file is published as it is.
        stated: Its labels, and what is recorded and shown about it.
        reason: Why there is no classifier.
    """

    wrapped: Wrapped | None
    stated: Stated
    reason: str = ""

    @property
    def summaries(self) -> dict[str, str]:
        """For the terminal."""
        rows = {}
        if self.wrapped is not None:
            rows["image"] = f"{self.wrapped.steps}, in the graph; scores are {self.wrapped.scores}"
        if self.stated.sources:
            rows["taken"] = "; ".join(self.stated.sources)
        if self.stated.notes:
            rows["note"] = "; ".join(self.stated.notes)
        return rows

    @property
    def metadata(self) -> dict[str, str]:
        """What is written into the file about its image and origin (keys without their prefix)."""
        if self.wrapped is None:
            return {}
        steps = self.wrapped.steps
        described = {"task": "single_label", "image": json.dumps(steps.spec.as_json()), "preprocessing": str(steps)}
        return described | ({"taken": json.dumps(self.stated.sources)} if self.stated.sources else {})

    def why_no_pictures(self, signature: Signature) -> str | None:
        """Why `hangtag classify` takes no pictures, or not all, of the published file, which has this signature."""
        if signature.picture_shape is None:
            why = self.reason or "it needs one input of pictures, UINT8, an output probabilities, and labels"
            return f"`hangtag classify` will not take pictures: {why}"
        if signature.image is None:
            return "takes pictures of exactly its size: add --preprocessing fit=stretch|crop|pad for others"
        return None


def choose(
    model: onnx.ModelProto,
    bare: Path,
    path: Path,
    labels_file: Path | None,
    preprocessing: str | None,
    scores: str | None,
) -> Plan:
    """Make a classifier of pictures where the preprocessing is stated. Options win over the files that lie with it.

    Args:
        model: The network.
        bare: Its file, external data included, which is written where it is needed; others are written where it lies.
        path: The user's file.
        labels_file: has the labels, one per line or as a JSON list.
        preprocessing: the option; None without it.
        scores: likewise.

    Raises:
        ExportError: the labels cannot be read, or the option is given and the network or the labels do not fit it.
        GateError: the network ends the process that puts the preprocessing before it.
    """
    given = None if labels_file is None else tuple(read_labels(labels_file))
    written = companions.read(path, model)
    stated = Stated.parse(preprocessing or "", labels=given or _own_labels(model), scores=scores).over(written)
    unwrapped = Stated(labels=given, notes=stated.notes)
    if not (preprocessing or str(stated)):
        return Plan(None, unwrapped, "nothing says how pixels become its input (--preprocessing)")
    bare.write_bytes(model.SerializeToString())
    wrapped = _wrapped(bare, path, stated)
    if isinstance(wrapped, str):
        if preprocessing is not None:
            raise ExportError(f"{path}: {wrapped} Nothing was published.")
        return Plan(None, unwrapped, wrapped.rstrip("."))
    sources = [one for one in stated.sources if stated.labels == written.labels or " labels from " not in one]
    if sources and preprocessing:
        sources.append(f"--preprocessing {preprocessing} wins over these")
    if sources and scores:
        sources.append(f"--scores {scores} too")
    return Plan(wrapped, replace(stated, sources=tuple(sources)))


def _wrapped(bare: Path, path: Path, stated: Stated) -> Wrapped | str:
    """The classifier, or why there is none. One of a network for a fixed number of pictures gets a free batch axis,
    where the network allows it."""

    def wrap(name: str, *, freed: bool) -> Wrapped | str:
        arguments = (bare, bare.with_name(name), stated, freed)
        return child_process.run(wrapping.wrap, *arguments, shown_as=path, check=STRUCTURE)

    wrapped = wrap("classifier.onnx", freed=False)
    if isinstance(wrapped, str) or wrapped.bare_batch is None:
        return wrapped
    try:
        free = wrap("freed.onnx", freed=True)
        if isinstance(free, Wrapped) and probe.run(free.file, path)[BATCHING]["batched"]:
            return replace(free, bare_batch=wrapped.bare_batch)
    except ExportError:
        pass  # it computes for its own number of pictures alone
    if wrapped.bare_batch > 1:
        return (
            f"it takes {wrapped.bare_batch} pictures at a time, and does not compute with other numbers. Export it "
            "with a free first axis (dynamic_axes or dynamic_shapes of torch.onnx.export)."
        )
    return wrapped


def read_labels(path: Path) -> list[str]:
    """Read a file of labels. Raises ExportError: it cannot be read, holds none, or names one twice."""
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
        raise ExportError(f"{path} names {named(repeated)} more than once: answers could not be distinguished.")
    return labels


def _own_labels(model: onnx.ModelProto) -> tuple[str, ...] | None:
    try:
        labels = json.loads(onnx_model.metadata(model).get("labels", "null"))
    except (ValueError, RecursionError):
        return None
    is_list = isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels)
    return tuple(labels) if is_list else None
