"""Run a file on pictures: prove a classifier against its bare network, and measure its accuracy.

The bare network's pictures are prepared by Pillow and NumPy. The accuracy is compared with that of the version that
serves.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hangtag.export import child_process, predecessors
from hangtag.export.arrays import Array, Pixels
from hangtag.export.child_process import Progress
from hangtag.export.errors import ExportError, GateError
from hangtag.export.file import kept_answers
from hangtag.export.gate.reference import softmax
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.export.quantization.samples import spread
from hangtag.export.repository.inventory import Entry, Quality
from hangtag.export.third_party.preprocessing import LOGITS, PROBABILITIES
from hangtag.export.third_party.wrapping import Wrapped
from hangtag.printable import named
from hangtag.serving.image_spec import ImageSpec, flattened
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data import listing, sources
from hangtag.training.data.pictures import prepared
from hangtag.training.errors import SettingsError

PICTURES, ACCURACY = "pictures", "accuracy"
"""The checks' names in the file's metadata."""
_COMPARED = 64
"""So many of the user's pictures are compared at most."""
_DRAWN = 24
_BATCH = 16
"""Pictures that a file whose requests may be batched answers at a time."""
_SHOWN_EVERY = 1_000
_SECONDS, _SECONDS_A_PICTURE = 600.0, 2.0


def prove(bare: Path, wrapped: Wrapped, given: Sequence[str], path: Path) -> dict[str, Any]:
    """Compare the classifier's answers with those of the bare network.

    Args:
        bare: The network's file.
        wrapped: The classifier.
        given: Paths of the user's pictures, of which some are taken; without any, some are drawn.
        path: The file's name in error messages.

    Returns:
        Figures for the gate's record, and a summary.

    Raises:
        GateError: the answers differ, or the scores are not what they are stated to be.
        ExportError: a picture cannot be read.
    """
    figures = child_process.run(
        _differences, wrapped.file, bare, wrapped, spread(given, _COMPARED), shown_as=path, check=PICTURES
    )
    furthest = " and ".join(f"{name} within {value:.1e}" for name, value in sorted(figures["furthest"].items()))
    kind = "drawn pictures" if figures["drawn"] else "of the pictures"
    return figures | {"summary": f"{furthest} of the bare network's after Pillow, for {figures['pictures']} {kind}"}


def _differences(file: Path, bare: Path, wrapped: Wrapped, pictures: Sequence[str]) -> dict[str, Any]:
    """In a child process: how far the classifier's answers are from the network's."""
    published, network = Runtime(file, provider="cpu"), Runtime(bare, provider="cpu")
    prepare, scores, bare_batch = wrapped.steps, wrapped.scores, wrapped.bare_batch or 1
    spec = prepare.spec
    images = [prepared(Path(path), spec) for path in pictures] or [
        spec.prepare(flattened(picture, spec.channels)) for picture in _drawn(spec)
    ]
    rows, answered = [], []
    for image in images:
        taken = np.repeat(prepare.network_input(image), bare_batch, axis=0)
        rows.append(network.run({prepare.input: taken})[wrapped.output][:1].astype(np.float64))
        answered.append(published.run({published.signature.inputs[0].name: image[None]}))
    expected = np.concatenate([row.reshape(1, -1) for row in rows])
    actual = {name: np.concatenate([answers[name] for answers in answered]) for name in answered[0]}
    if expected.shape != actual[PROBABILITIES].shape:
        shape = f"[batch, {actual[PROBABILITIES].shape[1]}]"
        raise GateError(PICTURES, f"the network's scores are {list(rows[0].shape)} for a picture, and must be {shape}.")
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
                f"of {len(images)} pictures the published file's {name} are up to {difference:.2g} from the network's, "
                f"and {limits[name]:.2g} is allowed.",
            )
    return {"pictures": len(images), "drawn": not pictures, "furthest": furthest, "limits": limits}


def _require_scores(scores: Array, kind: str) -> None:
    if not np.isfinite(scores).all():
        raise GateError(PICTURES, "the network's scores are not finite for some pictures: is the preprocessing right?")
    are_probabilities = bool((scores >= -1e-6).all()) and bool((np.abs(scores.sum(axis=1) - 1) < 1e-3).all())
    if kind == PROBABILITIES and not are_probabilities:
        low, high = float(scores.sum(axis=1).min()), float(scores.sum(axis=1).max())
        raise GateError(
            PICTURES,
            f"the network's scores are no probabilities of one label for each picture: they add up to {low:.3g} to "
            f"{high:.3g}, not to 1. Say --scores logits.",
        )
    if kind == LOGITS and are_probabilities and scores.shape[1] > 1:
        raise GateError(
            PICTURES,
            "the network's scores are probabilities already: they add up to 1 for each picture. Say --scores "
            "probabilities.",
        )


def _drawn(spec: ImageSpec) -> Iterator[Image.Image]:
    """Pictures of blots, of several sizes: of the network's, larger, smaller, wide and high; the same at every call."""
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
        quality: Its share of right answers, not rounded, and the digest of the pictures.
        figures: For the gate's record.
        metadata: What is written into the file (keys without their prefix).
    """

    quality: Quality
    figures: Mapping[str, Any]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Labelled:
    """The user's pictures with their labels, on which files are measured.

    Attributes:
        name: As ``--data`` names them.
        files: Each with the index of its label.
        digest: SHA-256 of names, labels and contents.
        shown_as: The imported file's name in error messages.
        progress: Gets a line now and then.
    """

    name: str
    files: tuple[tuple[str, int], ...]
    digest: str
    shown_as: Path
    progress: Progress

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
            self.files,
            _BATCH if batched else 1,
            shown_as=self.shown_as,
            check=ACCURACY,
            seconds=_SECONDS + _SECONDS_A_PICTURE * len(self.files),
            progress=self.progress,
        )
        share = counted["right"] / counted["pictures"]
        of = f"{counted['pictures']:,} pictures of {self.name}"
        return Measured(
            Quality("test_accuracy", share, self.digest),
            {"right": counted["right"], "pictures": counted["pictures"], "summary": f"{share:.2%} of {of}"},
            {
                "test_accuracy": f"{share:.4f}",
                "data_digest": self.digest,
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
        before = predecessors.recorded(rival, self.digest)
        if before is None and signature is not None:
            most = max(label for _, label in self.files)
            if signature.image is None or signature.picture_shape is None or most >= len(signature.labels):
                if even_if_worse:
                    return None
                why = "does not say how a picture becomes its input, or has other labels"
                raise predecessors.incomparable(rival, why)
            before = self.measure(rival.path, signature.image, batched=signature.batched).quality
        if before is None:
            return None
        compared = predecessors.compare(
            measured.quality,
            len(self.files),
            before,
            rival.version,
            even_if_worse=even_if_worse,
        )
        return {**compared.figures, "summary": compared.summary}


def labelled(name: str, labels: Sequence[str], shown_as: Path, progress: Progress) -> Labelled:
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
    files = tuple((str(one.path), places[one.label]) for one in chosen)
    return Labelled(name, files, digest.hexdigest(), shown_as, progress)


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
    kept = kept_answers.choose_examples(
        {"logits": labels[:, None] == np.arange(len(runtime.signature.labels))}, classes
    )
    shown = [prepared(Path(pictures[place][0]), spec) for place in kept.tolist()]
    return {
        "right": int((labels == classes).sum()),
        "pictures": len(classes),
        **kept_answers.record_examples(np.stack(shown), classes[kept]),
    }


def _batches(paths: Sequence[str], spec: ImageSpec, size: int) -> Iterator[list[Pixels]]:
    with ThreadPoolExecutor(2) as executor:
        for start in range(0, len(paths), size):
            yield list(executor.map(lambda path: prepared(Path(path), spec), paths[start : start + size]))
