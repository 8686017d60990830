"""Measure how many of the user's pictures a file labels rightly, and compare with the version that serves."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hangtag.export import child_process, predecessors
from hangtag.export.arrays import Pixels
from hangtag.export.errors import ExportError
from hangtag.export.file import examples
from hangtag.export.repository.inventory import Entry, Quality
from hangtag.export.third_party.preprocessing import PROBABILITIES
from hangtag.printable import named
from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data import listing, sources
from hangtag.training.data.pictures import prepared
from hangtag.training.errors import SettingsError

ACCURACY = "accuracy"
_BATCH = 16
"""Pictures that a file whose requests may be batched answers at a time."""
_SHOWN_EVERY = 1_000
_SECONDS, _SECONDS_A_PICTURE = 600.0, 2.0


@dataclass(frozen=True)
class Labelled:
    """The user's pictures with their labels.

    Attributes:
        name: As ``--data`` names them.
        files: Each with the index of its label.
        digest: SHA-256 of names, labels and contents.
    """

    name: str
    files: tuple[tuple[str, int], ...]
    digest: str


def read(name: str, labels: Sequence[str]) -> Labelled:
    """List the pictures of ``folder:`` or ``csv:``: those of its test split where it has one, else all.

    Raises:
        ExportError: it is neither, or has a class that is none of the labels.
        DataNotFoundError: there are no such pictures.
        DataCorruptError: they are not divided as they must be.
    """
    try:
        kind = sources.kind_of(name)
    except SettingsError:
        kind = None
    if kind not in ("folder", "csv"):
        raise ExportError(f"--data {name}: name folder:PICTURES, with a folder for each label, or csv:FILE.csv.")
    chosen = listing.held_out(name)
    if unknown := sorted({one.label for one in chosen} - set(labels)):
        raise ExportError(
            f"--data {name} has the classes {named(unknown)}, which are none of the labels {named(list(labels))}. Name "
            "its folders, or its column label, as the labels are named."
        )
    digest = hashlib.sha256()
    for one in chosen:
        digest.update(f"{one.name}\0{one.label}\0{hashlib.sha256(one.path.read_bytes()).hexdigest()}\n".encode())
    places = {label: place for place, label in enumerate(labels)}
    return Labelled(name, tuple((str(one.path), places[one.label]) for one in chosen), digest.hexdigest())


@dataclass(frozen=True)
class Measured:
    """The accuracy of a file.

    Attributes:
        quality: Its share of right answers, not rounded, and the digest of the pictures.
        figures: For the gate's record.
        metadata: What is written into the file (keys without their prefix).
    """

    quality: Quality
    figures: Mapping[str, Any]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Judge:
    """Measures files on the user's pictures.

    Attributes:
        data: The pictures.
        path: The imported file's name in error messages.
        progress: Gets a line now and then.
    """

    data: Labelled
    path: Path
    progress: Callable[[str], object]

    def measure(self, file: Path, image: ImageSpec, *, batched: bool) -> Measured:
        """Measure a file's accuracy.

        Raises:
            GateError: it does not answer.
            ExportError: a picture cannot be read.
        """
        counted = child_process.run(
            _count_right,
            file,
            image,
            self.data.files,
            _BATCH if batched else 1,
            shown_as=self.path,
            check=ACCURACY,
            seconds=_SECONDS + _SECONDS_A_PICTURE * len(self.data.files),
            progress=self.progress,
        )
        share = counted["right"] / counted["pictures"]
        of = f"{counted['pictures']:,} pictures of {self.data.name}"
        return Measured(
            Quality("test_accuracy", share, self.data.digest),
            {"right": counted["right"], "pictures": counted["pictures"], "summary": f"{share:.2%} of {of}"},
            {
                "test_accuracy": f"{share:.4f}",
                "data_digest": self.data.digest,
                "tested_on": of,
                "examples": counted["examples"],
            },
        )

    def compare(self, measured: Measured, rival: Entry, even_if_worse: bool) -> dict[str, Any] | None:
        """Compare with the version that serves: by what it records of these pictures, or measured on them now.

        Returns:
            Figures for the gate's record; None if it cannot be compared, and the user wants it so.

        Raises:
            ExportError: it cannot be compared, and not ``even_if_worse``.
            GateError: the new file is worse, and not ``even_if_worse``.
        """
        signature = rival.signature
        before = predecessors.recorded(rival, self.data.digest)
        if before is None and signature is not None:
            most = max(label for _, label in self.data.files)
            if signature.image is None or signature.picture_shape is None or most >= len(signature.labels):
                if even_if_worse:
                    return None
                why = "does not say how a picture becomes its input, or has other labels"
                raise predecessors.incomparable(rival, why, "To publish it all the same, add --even-if-worse")
            before = self.measure(rival.path, signature.image, batched=signature.batched).quality
        if before is None:
            return None
        compared = predecessors.compare(
            measured.quality,
            len(self.data.files),
            before,
            rival.version,
            even_if_worse=even_if_worse,
            remedy="To publish it all the same, add --even-if-worse, or give it another name with --name.",
        )
        return {**compared.figures, "summary": compared.summary}


def _count_right(file: Path, spec: ImageSpec, pictures: Sequence[tuple[str, int]], batch: int) -> dict[str, Any]:
    """In a child process: count how many pictures get the right label, and keep some of these.

    Args:
        file: An ONNX file with the output ``probabilities``.
        spec: Its ``hangtag.image``.
        pictures: Their paths, each with the index of its label.
        batch: How many the file takes at a time.
    """
    runtime = Runtime(file, provider="cpu")
    classes = np.array([label for _, label in pictures])
    labels = np.empty(len(classes), np.int64)
    done = 0
    for images in _batches([path for path, _ in pictures], spec, batch):
        answers = runtime.run({runtime.signature.inputs[0].name: np.stack(images)})
        labels[done : done + len(images)] = answers[PROBABILITIES].argmax(axis=1)
        done += len(images)
        if done % _SHOWN_EVERY < len(images) and done >= _SHOWN_EVERY:
            child_process.report(f"{done:,} of {len(classes):,} pictures answered")
    kept = examples.choose({"logits": labels[:, None] == np.arange(len(runtime.signature.labels))}, classes)
    shown = [prepared(Path(pictures[place][0]), spec) for place in kept.tolist()]
    return {
        "right": int((labels == classes).sum()),
        "pictures": len(classes),
        **examples.record(np.stack(shown), classes[kept]),
    }


def _batches(paths: Sequence[str], spec: ImageSpec, size: int) -> Iterator[list[Pixels]]:
    with ThreadPoolExecutor(2) as executor:
        for start in range(0, len(paths), size):
            yield list(executor.map(lambda path: prepared(Path(path), spec), paths[start : start + size]))
