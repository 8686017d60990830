"""Measure how many of the user's pictures a file labels rightly, and compare with the version that serves."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hangtag.export import child_process, predecessors
from hangtag.export.errors import ExportError
from hangtag.export.file import examples
from hangtag.export.repository.inventory import Entry, Quality
from hangtag.export.third_party.preprocessing import PROBABILITIES
from hangtag.printable import counted
from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data import pictures
from hangtag.training.data.pictures import HeldOut

ACCURACY = "accuracy"
_BATCH = 16
"""Pictures that a file whose requests may be batched answers at a time."""
_SHOWN_EVERY = 1_000
_SECONDS, _SECONDS_A_PICTURE = 600.0, 2.0


def read(name: str, image: ImageSpec, labels: Sequence[str]) -> HeldOut:
    """Read the pictures of ``folder:`` or ``csv:``: those of its test split where it has one, else all.

    Raises:
        ExportError: it is neither.
        DataNotFoundError: there are no such pictures.
        DataCorruptError: they are not divided as they must be, cannot be read, or have a class that is none of the
            labels.
    """
    if not name.startswith(("folder:", "csv:")):
        raise ExportError(f"--data {name}: name folder:PICTURES, with a folder for each label, or csv:FILE.csv.")
    return pictures.held_out(name, image, labels)


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

    data: HeldOut
    path: Path
    progress: Callable[[str], object]

    def measure(self, file: Path, image: ImageSpec, *, batched: bool) -> Measured:
        """Measure a file's accuracy.

        Raises:
            GateError: it does not answer.
        """
        count = len(self.data.pictures)
        with tempfile.TemporaryDirectory() as folder:
            images, classes = Path(folder, "images.npy"), Path(folder, "classes.npy")
            np.save(images, self.data.images(image))
            np.save(classes, self.data.content.classes)
            answered = child_process.run(
                count_right,
                self.path,
                ACCURACY,
                seconds=_SECONDS + _SECONDS_A_PICTURE * count,
                progress=self.progress,
                file=str(file),
                pictures=str(images),
                labels=str(classes),
                batch=_BATCH if batched else 1,
            )
        share = answered["right"] / count
        of = f"{counted(count, 'picture', 'pictures')} of {self.data.name}"
        return Measured(
            Quality("test_accuracy", share, self.data.digest),
            {"right": answered["right"], "pictures": count, "summary": f"{share:.2%} of {of}"},
            {
                "test_accuracy": f"{share:.4f}",
                "data_digest": self.data.digest,
                "tested_on": of,
                "examples": answered["examples"],
            },
        )

    def compare(self, measured: Measured, rival: Entry, even_if_worse: bool) -> dict[str, Any] | None:
        """Compare with the version that serves: by what it records of these pictures, or measured on them now.

        Returns:
            Figures for the gate's record; None if it cannot be compared, and the user wants it so.

        Raises:
            IncomparableError: it cannot be compared, and not ``even_if_worse``.
            GateError: the new file is worse, and not ``even_if_worse``.
        """
        signature = rival.signature
        before = predecessors.recorded(rival, self.data.digest)
        if before is None and signature is not None:
            most = self.data.content.classes.max()
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
            len(self.data.pictures),
            before,
            rival.version,
            even_if_worse=even_if_worse,
            remedy="To publish it all the same, add --even-if-worse, or give it another name with --name.",
        )
        return {**compared.figures, "summary": compared.summary}


def count_right(file: str, pictures: str, labels: str, batch: int) -> dict[str, Any]:
    """In a child process: count how many pictures get the right label, and keep some of these.

    Args:
        file: An ONNX file with the output ``probabilities``.
        pictures: A .npy file with the images as the file takes them.
        labels: Another with their places among its labels.
        batch: How many the file takes at a time.
    """
    runtime = Runtime(Path(file), provider="cpu")
    images, classes = np.load(pictures, mmap_mode="r"), np.load(labels)
    answered = np.empty(len(classes), np.int64)
    for start in range(0, len(images), batch):
        answers = runtime.run({runtime.signature.inputs[0].name: images[start : start + batch]})
        answered[start : start + batch] = answers[PROBABILITIES].argmax(axis=1)
        done = min(start + batch, len(images))
        if done // _SHOWN_EVERY > start // _SHOWN_EVERY:
            child_process.report(f"{done:,} of {len(images):,} pictures answered")
    kept = examples.choose({"logits": answered[:, None] == np.arange(len(runtime.signature.labels))}, classes)
    return {"right": int((answered == classes).sum()), **examples.record(images[kept], classes[kept])}
