"""Loads the images on which a model is evaluated: a split of a data set, or the user's own pictures."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hangtag.errors import reason
from hangtag.evaluation.subject import Array, EvaluationError, Subject
from hangtag.extras import needs
from hangtag.options import SampleOptions
from hangtag.printable import named
from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data import fashion_mnist, outfits, pictures, sources
from hangtag.training.data.dataset import Classes, Dataset, Member, Split, pixels_digest
from hangtag.training.runs import run_data as runs_data
from hangtag.training.runs.run import Run

_RUNS = Path("runs")
_USED = {
    "train": ("training", "which a model classifies better than new pictures"),
    "test": ("test", "which must not influence a choice"),
}
"""Splits of a model's data set that must not be used as samples, each with a word for its pictures and the reason."""


@dataclass(frozen=True)
class Samples:
    """A split of a data set, or the user's own pictures. ``notes`` are sentences about pictures that were left out."""

    dataset: str
    split: str
    source: str
    labels: tuple[str, ...]
    image: ImageSpec
    content: Split
    notes: tuple[str, ...] = ()


def load(
    subject: Subject, chosen: SampleOptions, split: str, name: str | None = None, runs: Path = _RUNS,
    option: str = "--samples",
) -> Samples:  # fmt: skip
    """Load the images on which a model is evaluated.

    Args:
        split: ``validation`` or ``test``.
        name: the data set; None for the subject's data set.
        runs: the folder in which to look for a published model's run, which records the model's pictures.
        option: the command-line option that names the user's own samples, for error messages.

    Raises:
        UserError: the data set is unknown, missing, damaged or for another task, or needs a missing package.
    """
    limit, data_dir = chosen.limit, chosen.data_dir
    if chosen.samples is not None:
        return _own_samples(subject, chosen.samples, limit, option)
    if data_dir is None and name in (None, subject.dataset) and subject.config is not None:
        recorded = subject.config.get("data_dir")
        data_dir = Path(recorded) if isinstance(recorded, str) and Path(recorded).is_dir() else None
    name = name or subject.dataset
    if name is None:
        known = f"has the labels {named(subject.labels)}" if subject.labels else "names no labels"
        raise EvaluationError(
            f"{subject.name} {known}, and does not say on which pictures it was trained. Give pictures with "
            f"{option} folder:PICTURES or {option} FILE.npz. The file needs the arrays 'images' and 'labels'."
        )
    is_own = sources.kind_of(name) is not None
    if (name in sources.LABEL_SETS) != (subject.task == "multi_label"):
        raise EvaluationError(f"{subject.name} is a {subject.task} model, so {name} cannot be used to evaluate it.")
    if name == fashion_mnist.NAME or name in outfits.NAMES:
        return _garments(name, split, limit, data_dir)
    with needs("train", f"the data set {name}"):
        whole = _own_dataset(subject, name, data_dir, runs) if is_own else sources.load(name, data_dir)
    content, labels = (whole.validation if split == "validation" else whole.test).first(limit), whole.labels
    if is_own and subject.labels:  # number the classes in the order of the model's labels
        content, labels = replace(content, classes=_numbers(labels, subject, name)[content.classes]), subject.labels
    return Samples(name, split, whole.source, labels, whole.image, content)


def used(subject: Subject, images: Array, splits: Sequence[str], runs: Path = _RUNS) -> str | None:
    """Say how many of the ``images`` are in one of the ``splits`` of the model's data set. Only the first split with
    such an image is reported. Return None if no split has such an image, or if ``runs`` lacks the model's run."""
    members = _members(subject, runs)
    digests = [pixels_digest(image) for image in images] if members else []
    for split in splits:
        paths = {each.pixels: each.path for each in members if each.split == split}
        if known := [paths[digest] for digest in digests if digest in paths]:
            kind, why = _USED[split]
            return (
                f"{len(known):,} of these {len(images):,} pictures are {kind} pictures of {subject.name} "
                f"({named(known)}), {why}. Leave these pictures out."
            )
    return None


def _members(subject: Subject, runs: Path) -> Sequence[Member]:
    """List the user's own pictures that a model's data set consists of. A published model does not name the run that
    trained it, so the list comes from any run that has the same pictures and splits."""
    config = subject.config
    if config is None or "data_digest" not in config:
        return ()
    folder = subject.details.get("folder")
    for run in [Run(Path(folder))] if folder else Run.all(runs):
        same = not run.trouble and all(run.config.get(key) == config.get(key) for key in ("data_digest", "pictures"))
        if same and (members := run.members()):
            return members
    return ()


def _garments(name: str, split: str, limit: int | None, data_dir: Path | None) -> Samples:
    """Load a split of Fashion-MNIST, or build a split of outfits from Fashion-MNIST. To save seconds, only the
    requested split is built, and the training images are not read for the test split."""
    folder = fashion_mnist.locate(data_dir)
    content = fashion_mnist.load_test(folder) if split == "test" else fashion_mnist.load(folder).validation
    if name in outfits.NAMES:
        size = outfits.SIZES[split]
        content = outfits.load_split(name, split, content, min(size, limit or size))
    image = sources.IMAGES[name]
    return Samples(name, split, str(folder), fashion_mnist.LABELS, image, content.first(limit))


def _own_dataset(subject: Subject, name: str, data_dir: Path | None, runs: Path) -> Dataset:
    """Load the user's pictures, which are split and prepared as in the model's run."""
    config: Mapping[str, Any] = subject.config or {}
    # Pictures of another data set are only converted to the model's input size; this needs no run.
    if name != config.get("dataset"):
        return sources.load(name, image=_image(subject))
    return runs_data.load(config, data_dir, _members(subject, runs))


def _own_samples(subject: Subject, own: str, limit: int | None, option: str) -> Samples:
    image = _image(subject)
    if not subject.labels:
        raise EvaluationError(f"{subject.name} names no labels, but {option} needs the names of the model's labels.")
    if subject.task != "single_label":
        raise EvaluationError(f"{subject.name} predicts sets of labels, but {option} gives a picture one label.")
    notes: tuple[str, ...] = ()
    if own.endswith(".npz"):
        content = _npz(Path(own), subject, image)
    elif own.startswith(tuple(f"{kind}:" for kind in sources.OWN)):
        held_out = pictures.held_out(own, image, subject.labels)
        content, notes = held_out.content, held_out.notes
    else:
        raise EvaluationError(f"{option} {own}: give FILE.npz, folder:PICTURES, csv:FILE or idx:FOLDER.")
    return Samples(own, "samples", own, subject.labels, image, content.first(limit), notes)


def _image(subject: Subject) -> ImageSpec:
    if subject.image is None:
        raise EvaluationError(
            f"{subject.name} does not say how pictures are turned into the model's input. Record it with: hangtag "
            "models fit NAME --fit stretch|crop|pad. If the model is not a picture classifier, import its file with: "
            "hangtag import FILE.onnx --name NAME --preprocessing fit=stretch|crop|pad"
        )
    return subject.image


def _numbers(labels: Sequence[str], subject: Subject, own: str) -> Classes:
    """Return the index of each label among the model's labels."""
    unknown = sorted(set(labels) - set(subject.labels))
    if unknown:
        raise EvaluationError(
            f"{own} has the classes {', '.join(unknown[:5])}, which {subject.name} does not know. The model's labels "
            f"are {', '.join(subject.labels[:10])}."
        )
    return np.array([subject.labels.index(label) for label in labels], np.int64)


def _npz(file: Path, subject: Subject, image: ImageSpec) -> Split:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            images, classes = arrays.get("images", arrays.get("image")), arrays.get("labels")
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        why = reason(error) if isinstance(error, OSError) and error.errno else "it is not a file of numpy.savez"
        raise EvaluationError(
            f"{file} cannot be read ({why}). Save the arrays 'images' and 'labels' with numpy.savez."
        ) from error
    if images is None or classes is None:
        raise EvaluationError(f"{file} must have the arrays 'images' and 'labels'.")
    images, classes = np.asarray(images), np.asarray(classes)  # numpy returns other members of the archive as bytes
    fits = images.dtype == np.uint8 and images.shape[1:] == image.shape and classes.shape == images.shape[:1]
    if not fits or not len(images):
        raise EvaluationError(
            f"{file} has images {images.dtype} {[*images.shape]} and labels {[*classes.shape]}. The model needs "
            f"images uint8 [n, {', '.join(map(str, image.shape))}] and labels [n], with at least one picture. Picture "
            "files of other sizes are converted: put them into PICTURES/LABEL/, and give folder:PICTURES."
        )
    if classes.dtype.kind == "U":
        return Split(images, _numbers(classes.tolist(), subject, str(file)))
    count, is_number = len(subject.labels), classes.dtype.kind in "biuf"
    if classes.dtype.kind not in "iu" or classes.min() < 0 or classes.max() >= count:
        extent = f" from {classes.min()} to {classes.max()}" if is_number else ""
        raise EvaluationError(
            f"{file} has labels {classes.dtype}{extent}, but {subject.name} has {count} labels. Give labels as names, "
            f"or as whole numbers from 0 to {count - 1}."
        )
    return Split(images, classes.astype(np.int64))
