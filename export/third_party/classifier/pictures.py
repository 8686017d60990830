"""Run a file on pictures in a child process: python -m hangtag.export.third_party.classifier.pictures FOLDER.

The folder holds ``pictures.json`` (a Request) and the files that it names. The findings are JSON on the last line of
standard output. With a bare network the published file is compared with what this network answers to the same pictures,
prepared by Pillow and NumPy; with labels it is counted how many pictures the published file gives the right one.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hangtag.export.arrays import Array, Pixels
from hangtag.export.errors import ExportError
from hangtag.export.file import examples
from hangtag.export.gate.runtime_answers import softmax
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.export.third_party.classifier.preprocessing import LOGITS, PROBABILITIES, Steps
from hangtag.export.third_party.processes import PROGRESS
from hangtag.serving.image_spec import ImageSpec, flattened
from hangtag.serving.server.errors import InferenceError, ModelLoadError
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data import listing, sources
from hangtag.training.data.division import named
from hangtag.training.data.pictures import prepared
from hangtag.training.errors import DataCorruptError, SettingsError

COMPARED = 64
"""So many of the user's pictures are compared at most."""
_DRAWN = 24
_SHOWN_EVERY = 1_000


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


@dataclass(frozen=True)
class Request:
    """What to do with which pictures.

    Attributes:
        file: The published file's name in the folder.
        image: Its ``hangtag.image``.
        pictures: Their paths, each with the index of its label, or None. Without any, some are drawn.
        batch: How many pictures the file takes at a time.
        bare: The network's name in the folder, to compare with; None to count right answers.
        bare_batch: How many pictures the network takes at a time.
        steps: What the published file does to pixels, as ``asdict`` has it.
        output: The network's output with the scores.
        scores: One of ``preprocessing.SCORES``.
    """

    file: str
    image: dict[str, Any]
    pictures: Sequence[tuple[str, int | None]]
    batch: int = 1
    bare: str | None = None
    bare_batch: int = 1
    steps: dict[str, Any] | None = None
    output: str = ""
    scores: str = LOGITS

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


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
    listed, _ = listing.listed(name)
    chosen = [one for one in listed if one.split == "test"] or listed
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


def run(folder: Path) -> dict[str, Any]:
    """Do what the folder's request says.

    Returns:
        JSON values; only ``refused``, the reason, where the answers are not as they must be.
    """
    request = Request(**json.loads((folder / "pictures.json").read_text(encoding="utf-8")))
    try:
        file = Runtime(folder / request.file, provider="cpu")
        if request.bare is None:
            return _measured(request, file)
        return _compared(request, file, Runtime(folder / request.bare, provider="cpu"))
    except UnicodeDecodeError as error:
        return {"refused": f"a name or a text in it is not UTF-8 ({error})."}
    except (ExportError, ModelLoadError, InferenceError, DataCorruptError) as error:
        return {"refused": f"{' '.join(str(error).split()).rstrip('.')}."}


def _compared(request: Request, file: Runtime, bare: Runtime) -> dict[str, Any]:
    """How far the published file's answers are from the network's."""
    assert request.steps is not None
    steps = Steps(**request.steps)
    spec = ImageSpec.of(request.image)
    images = [prepared(Path(path), spec) for path, _ in request.pictures] or [
        spec.prepare(flattened(picture, spec.channels)) for picture in _drawn(spec)
    ]
    scores, answered = [], []
    for image in images:
        taken = np.repeat(steps.network_input(image), request.bare_batch, axis=0)
        scores.append(bare.run({steps.input: taken})[request.output][:1].astype(np.float64))
        answered.append(file.run({file.signature.inputs[0].name: image[None]}))
    expected = np.concatenate([each.reshape(1, -1) for each in scores])
    actual = {name: np.concatenate([answers[name] for answers in answered]) for name in answered[0]}
    if expected.shape != actual[PROBABILITIES].shape:
        shape = f"[batch, {actual[PROBABILITIES].shape[1]}]"
        raise ExportError(f"the network's scores are {list(scores[0].shape)} for a picture, and must be {shape}")
    _require_scores(expected, request.scores)
    tolerances = TOLERANCES["fp16" if steps.datatype == "FP16" else "fp32"]
    wanted = {PROBABILITIES: softmax(expected) if request.scores == LOGITS else expected}
    limits = {PROBABILITIES: tolerances.probabilities}
    if request.scores == LOGITS:
        spread = float(np.ptp(expected))
        wanted[LOGITS] = expected
        limits[LOGITS] = tolerances.absolute * max(1.0, spread) + tolerances.of_spread * spread
    furthest = {name: float(np.abs(actual[name] - numbers).max()) for name, numbers in wanted.items()}
    for name, difference in furthest.items():
        if not difference <= limits[name]:
            raise ExportError(
                f"of {len(images)} pictures the published file's {name} are up to {difference:.2g} from the network's, "
                f"and {limits[name]:.2g} is allowed"
            )
    return {
        "pictures": len(images), "drawn": not request.pictures, "furthest": furthest, "limits": limits,
    }  # fmt: skip


def _require_scores(scores: Array, kind: str) -> None:
    if not np.isfinite(scores).all():
        raise ExportError("the network's scores are not finite for some pictures: is the preprocessing right?")
    are_probabilities = bool((scores >= -1e-6).all()) and bool((np.abs(scores.sum(axis=1) - 1) < 1e-3).all())
    if kind == PROBABILITIES and not are_probabilities:
        low, high = float(scores.sum(axis=1).min()), float(scores.sum(axis=1).max())
        raise ExportError(
            f"the network's scores are no probabilities of one label for each picture: they add up to {low:.3g} to "
            f"{high:.3g}, not to 1. Say --scores logits"
        )
    if kind == LOGITS and are_probabilities and scores.shape[1] > 1:
        raise ExportError(
            "the network's scores are probabilities already: they add up to 1 for each picture. Say --scores "
            "probabilities"
        )


def _measured(request: Request, file: Runtime) -> dict[str, Any]:
    """How many pictures get the right label, and some of these."""
    spec = ImageSpec.of(request.image)
    classes = np.array([label for _, label in request.pictures])
    labels = np.empty(len(classes), np.int64)
    done = 0
    for images in _batches([path for path, _ in request.pictures], spec, request.batch):
        answers = file.run({file.signature.inputs[0].name: np.stack(images)})
        labels[done : done + len(images)] = answers[PROBABILITIES].argmax(axis=1)
        done += len(images)
        if done % _SHOWN_EVERY < len(images) and done >= _SHOWN_EVERY:
            sys.stderr.write(f"{PROGRESS}{done:,} of {len(classes):,} pictures answered\n")
            sys.stderr.flush()
    kept = examples.choose({"logits": labels[:, None] == np.arange(len(file.signature.labels))}, classes)
    shown = [prepared(Path(request.pictures[place][0]), spec) for place in kept.tolist()]
    return {
        "right": int((labels == classes).sum()),
        "pictures": len(classes),
        **examples.record(np.stack(shown), classes[kept]),
    }


def _batches(paths: Sequence[str], spec: ImageSpec, size: int) -> Iterator[list[Pixels]]:
    with ThreadPoolExecutor(2) as executor:
        for start in range(0, len(paths), size):
            yield list(executor.map(lambda path: prepared(Path(path), spec), paths[start : start + size]))


def _drawn(spec: ImageSpec) -> Iterator[Image.Image]:
    """Pictures of blots, of several sizes: of the network's, larger, smaller, wide and high; the same at every call."""
    random = np.random.default_rng(0)
    sizes = [(1, 1), (2, 3), (3, 2), (1.5, 0.75), (0.5, 0.6), (1, 2)]
    for place in range(_DRAWN):
        high, wide = sizes[place % len(sizes)]
        blots = Image.fromarray(random.integers(0, 256, (4 + place // 6, 5, 3), np.uint8))
        size = (max(1, round(wide * spec.width)), max(1, round(high * spec.height)))
        yield blots.resize(size, Image.Resampling.BICUBIC if place % 2 else Image.Resampling.NEAREST)


def figures(findings: Mapping[str, Any]) -> str:
    """The findings of a comparison in words."""
    furthest = " and ".join(f"{name} within {value:.1e}" for name, value in sorted(findings["furthest"].items()))
    kind = "drawn pictures" if findings["drawn"] else "of the pictures"
    return f"{furthest} of the bare network's after Pillow, for {findings['pictures']} {kind}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]))) + "\n")
