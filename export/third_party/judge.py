"""Run a file on pictures: compare a classifier with its bare network, and measure the classifier's accuracy.

Pillow and NumPy prepare the bare network's pictures. The accuracy is compared with that of the served version.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from hangtag.export import child_process, predecessors
from hangtag.export.child_process import Progress
from hangtag.export.errors import ExportError, GateError
from hangtag.export.file import kept_answers
from hangtag.export.gate.check import ACCURACY, PICTURES
from hangtag.export.gate.network_answers import softmax
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.export.network_arrays import Array
from hangtag.export.repository.inventory import Entry, Quality
from hangtag.export.third_party.preprocessing import LOGITS, PROBABILITIES
from hangtag.export.third_party.wrapping import Wrapped
from hangtag.printable import counted
from hangtag.serving.image_spec import ImageSpec, flattened
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data.dataset import Classes
from hangtag.training.data.pictures import HeldOut, held_out

_DRAWN = 24
_BATCH = 16
"""The batch size for files whose requests may be batched."""
_SHOWN_EVERY = 1_000
_SECONDS, _SECONDS_A_PICTURE = 600.0, 2.0


def prove(bare: Path, wrapped: Wrapped, path: Path) -> dict[str, Any]:
    """Compare the classifier's answers with those of the bare network, for generated pictures.

    Args:
        bare: The network's file.
        wrapped: The classifier.
        path: The file's name in error messages.

    Returns:
        The measurements to record in the file's metadata, including a summary.

    Raises:
        GateError: the answers differ, or the network's scores are not of the stated kind (logits or probabilities).
    """
    figures = child_process.run(_differences, wrapped.file, bare, wrapped, shown_as=path, check=PICTURES)
    furthest = " and ".join(f"{name} within {value:.1e}" for name, value in sorted(figures["furthest"].items()))
    of = f"the bare network's answers to {figures['pictures']} generated pictures that Pillow prepared"
    return figures | {"summary": f"{furthest} of {of}"}


def _differences(file: Path, bare: Path, wrapped: Wrapped) -> dict[str, Any]:
    """Compute the differences between the classifier's answers and the network's. This runs in a child process."""
    published, network = Runtime(file, provider="cpu"), Runtime(bare, provider="cpu")
    prepare, scores = wrapped.steps, wrapped.scores
    spec = prepare.spec
    images = [spec.prepare(flattened(picture, spec.channels)) for picture in _drawn(spec)]
    rows, answered = [], []
    for image in images:
        rows.append(network.run({prepare.input: prepare.network_input(image)})[wrapped.output].astype(np.float64))
        answered.append(published.run({published.signature.inputs[0].name: image[None]}))
    expected = np.concatenate([row.reshape(1, -1) for row in rows])
    actual = {name: np.concatenate([answers[name] for answers in answered]) for name in answered[0]}
    if expected.shape != actual[PROBABILITIES].shape:
        shape = f"[batch, {actual[PROBABILITIES].shape[1]}]"
        raise GateError(PICTURES, f"the network's scores are {list(rows[0].shape)} for a picture, but must be {shape}.")
    _require_scores(expected, scores)
    tolerances = TOLERANCES["fp16" if prepare.datatype == "FP16" else "fp32"]
    wanted = {PROBABILITIES: softmax(expected) if scores == LOGITS else expected}
    limits = {PROBABILITIES: tolerances.probabilities}
    if scores == LOGITS:
        range_of_scores = float(np.ptp(expected))
        wanted[LOGITS] = expected
        limits[LOGITS] = tolerances.absolute * max(1.0, range_of_scores) + tolerances.of_spread * range_of_scores
    furthest = {name: float(np.abs(actual[name] - numbers).max()) for name, numbers in wanted.items()}
    for name, difference in furthest.items():
        if not difference <= limits[name]:
            raise GateError(
                PICTURES,
                f"for {len(images)} pictures, the published file's {name} differ by up to {difference:.2g} from the "
                f"network's, but at most {limits[name]:.2g} is allowed.",
            )
    return {"pictures": len(images), "furthest": furthest, "limits": limits}


def _require_scores(scores: Array, kind: str) -> None:
    if not np.isfinite(scores).all():
        raise GateError(PICTURES, "the network's scores are not finite for some pictures: is the preprocessing right?")
    are_probabilities = bool((scores >= -1e-6).all()) and bool((np.abs(scores.sum(axis=1) - 1) < 1e-3).all())
    if kind == PROBABILITIES and not are_probabilities:
        low, high = float(scores.sum(axis=1).min()), float(scores.sum(axis=1).max())
        raise GateError(
            PICTURES,
            f"the network's scores are not probabilities of one label for each picture: their sums range from "
            f"{low:.3g} to {high:.3g} instead of being 1. Add --scores logits.",
        )
    if kind == LOGITS and are_probabilities and scores.shape[1] > 1:
        raise GateError(
            PICTURES,
            "the network's scores are already probabilities: they add up to 1 for each picture. Add --scores "
            "probabilities.",
        )


def _drawn(spec: ImageSpec) -> Iterator[Image.Image]:
    """Draw random pictures, the same at every call, in several sizes: the network's, larger, smaller, wide and high."""
    random = np.random.default_rng(0)
    sizes = [(1, 1), (2, 3), (3, 2), (1.5, 0.75), (0.5, 0.6), (1, 2)]
    for place in range(_DRAWN):
        high, wide = sizes[place % len(sizes)]
        blots = Image.fromarray(random.integers(0, 256, (4 + place // 6, 5, 3), np.uint8))
        size = (max(1, round(wide * spec.width)), max(1, round(high * spec.height)))
        yield blots.resize(size, Image.Resampling.BICUBIC if place % 2 else Image.Resampling.NEAREST)


@dataclass(frozen=True)
class Measured:
    """The accuracy of a file.

    Attributes:
        quality: The unrounded share of correct answers, and the digest of the pictures.
        figures: The figures of the check ``ACCURACY`` in the file's metadata.
        metadata: The metadata for the file (keys without their prefix).
    """

    quality: Quality
    figures: Mapping[str, Any]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Judge:
    """Measures the accuracy of files on the user's pictures.

    Attributes:
        data: The pictures.
        shown_as: The imported file's name in error messages.
        progress: Called with a line of progress after every thousand pictures.
        left_out: The number of pictures that are left out, because they were used to convert the file.
    """

    data: HeldOut
    shown_as: Path
    progress: Progress
    left_out: int = 0

    @classmethod
    def of(cls, name: str, image: ImageSpec, labels: Sequence[str], shown_as: Path, progress: Progress) -> "Judge":
        """Read the pictures of a ``folder:`` or ``csv:`` source, or only its test split if there is one.

        Raises:
            ExportError: ``name`` does not begin with ``folder:`` or ``csv:``.
            DataNotFoundError: the pictures do not exist.
            DataCorruptError: the pictures are not split as required, cannot be read, or have a class that is not among
                the labels.
        """
        if not name.startswith(("folder:", "csv:")):
            raise ExportError(f"--data {name}: name folder:PICTURES, with a folder for each label, or csv:FILE.csv.")
        data = held_out(name, image, labels)
        for note in data.notes:
            progress(note)
        return cls(data, shown_as, progress)

    @property
    def files(self) -> list[Path]:
        return [picture.path for picture in self.data.pictures]

    def without(self, files: Sequence[Path]) -> "Judge":
        """Return a ``Judge`` that does not use these pictures. On pictures that were used to convert a file, its
        accuracy would be too high.

        Raises:
            ExportError: no other pictures remain.
        """
        rest = self.data.without({hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
        if not rest.pictures:
            raise ExportError(
                "all pictures of --data are used to convert the file: add pictures to --data, or give samples with "
                "--calibration."
            )
        return replace(self, data=rest, left_out=len(self.data.pictures) - len(rest.pictures))

    def measure(self, file: Path, image: ImageSpec, *, batched: bool) -> Measured:
        """Measure a file's accuracy.

        Raises:
            GateError: the model in the file cannot be run.
        """
        count = len(self.data.pictures)
        with TemporaryDirectory() as folder:
            images = Path(folder, "images.npy")
            np.save(images, self.data.images(image))
            right, examples = child_process.run(
                _count_right,
                file,
                images,
                self.data.content.classes,
                _BATCH if batched else 1,
                shown_as=self.shown_as,
                check=ACCURACY,
                seconds=_SECONDS + _SECONDS_A_PICTURE * count,
                progress=self.progress,
            )
        share = right / count
        others = f", without the {self.left_out} that were used to convert the file" if self.left_out else ""
        of = f"{counted(count, 'picture', 'pictures')} of {self.data.name}{others}"
        return Measured(
            Quality("test_accuracy", share, self.data.digest),
            {
                "right": right,
                "pictures": count,
                "left_out": self.left_out,
                "source": self.data.name,
                "summary": f"{share:.2%} right of {of}",
            },
            {"test_accuracy": f"{share:.4f}", "data_digest": self.data.digest, "tested_on": of, **examples},
        )

    def compare(self, measured: Measured, rival: Entry, even_if_worse: bool) -> dict[str, Any] | None:
        """Compare the accuracy with that of the served version. If no accuracy is recorded for that version,
        measure it.

        Returns:
            The measurements to record in the file's metadata; None if no comparison is possible.

        Raises:
            ExportError: no comparison is possible, and ``even_if_worse`` is False.
            GateError: the new file is worse, and ``even_if_worse`` is False.
        """
        signature = rival.signature
        before = predecessors.recorded(rival, self.data.digest)
        if before is None and signature is not None:
            most = self.data.content.classes.max()
            if signature.image is None or signature.picture_shape is None or most >= len(signature.labels):
                if even_if_worse:
                    return None
                why = "does not say how a picture becomes its input, or lacks some of the pictures' labels"
                raise predecessors.incomparable(rival, why)
            before = self.measure(rival.path, signature.image, batched=signature.batched).quality
        if before is None:
            return None
        compared = predecessors.compare(
            measured.quality,
            len(self.data.pictures),
            before,
            rival.version,
            even_if_worse=even_if_worse,
        )
        return {**compared.figures, "summary": compared.summary}


def _count_right(file: Path, mapped: Path, classes: Classes, batch: int) -> tuple[int, dict[str, str]]:
    """Count the pictures that get the right label, and return some of them as examples. This runs in a child process.

    Args:
        file: An ONNX file with the output ``probabilities``.
        mapped: A .npy file with the images, prepared for the model.
        classes: The index of each image's label.
        batch: The number of images in a batch.
    """
    runtime = Runtime(file, provider="cpu")
    images = np.load(mapped, mmap_mode="r")
    labels = np.empty(len(classes), np.int64)
    for start in range(0, len(images), batch):
        answers = runtime.run({runtime.signature.inputs[0].name: images[start : start + batch]})
        labels[start : start + batch] = answers[PROBABILITIES].argmax(axis=1)
        done = min(start + batch, len(images))
        if done // _SHOWN_EVERY > start // _SHOWN_EVERY:
            child_process.report(f"{done:,} of {len(images):,} pictures answered")
    kept = kept_answers.choose_examples(labels, classes)
    return int((labels == classes).sum()), kept_answers.record_examples(images[kept], classes[kept])
