"""Runs every model of a repository on labelled pictures, and measures the times of the models on this machine."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hangtag.choose.candidates import OUTPUT, Model
from hangtag.errors import UserError
from hangtag.evaluation import samples
from hangtag.evaluation.subject import Array, EvaluationError, Subject, of_file, sentence
from hangtag.options import SampleOptions
from hangtag.serving.model_repository import ModelFile, is_route, require_names, require_versions
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.loading import settings_of
from hangtag.serving.server.engine.routes.route_file import Acceptance

_LARGEST_BATCH = 64
"""A full batch has this many samples, or a model's max_batch_size if that is smaller."""
_ROUNDS = 10
_RULE = Acceptance(OUTPUT, "at_least", 0.5)
"""Only checks that a model has the output by which a cascade decides, so the threshold does not matter."""


@dataclass(frozen=True)
class Measured:
    """The models' answers and times, measured without a server."""

    models: Sequence[Model]  # all with the same signature
    images: Array  # the images that the models answered, uint8
    shown: str  # a description of the images, such as "5,000 validation images"


class _Opened(NamedTuple):
    file: ModelFile
    subject: Subject
    full: int  # the number of samples in a full batch


def measure(
    repository: Path, names: Sequence[str], chosen: SampleOptions, option: str, on_step: Callable[[str], None]
) -> Measured:
    """Measure models of a repository.

    Args:
        names: The models, as NAME (for the served version) or NAME@VERSION. If empty, the largest group of models
            in the repository that have the same signature is measured.
        chosen: The samples to use, on which no model was trained; by default, the validation images.
        option: The command-line option that names the samples, for error messages.
        on_step: Receives a sentence about each step, and about each model and group of pictures that is left out.

    Raises:
        UserError: A named model is missing or cannot be compared, or no model is left, or the data set is damaged.
    """
    own = chosen.samples
    opened, left_out = dict[str, _Opened](), list[str]()
    for name in names or [name for name in require_names(repository) if not is_route(repository, name)]:
        try:
            opened[name] = _open(repository, name)
        except UserError as error:
            if names:
                raise
            left_out.append(sentence(error))
    if len({one.file for one in opened.values()}) < len(names):
        raise EvaluationError(f"a model is named twice: {', '.join(names)}.")
    subjects = {name: one.subject for name, one in opened.items()}
    unfit = min((_differing(name, subjects) for name in subjects), key=len, default={})
    for name, subject in subjects.items() if not (names or own) else ():
        if subject.dataset is None:
            unfit.setdefault(name, f"{name} does not name its training pictures. Give pictures with {option}.")
    if names and unfit:
        raise EvaluationError(next(iter(unfit.values())))
    left_out += unfit.values()
    subjects = {name: subject for name, subject in subjects.items() if name not in unfit}
    if not subjects:
        raise EvaluationError(" ".join([f"{repository} has no model that can be chosen.", *left_out[:1]]))
    learned = {(subject.config or {}).get("data_digest") for subject in subjects.values()} - {None}
    if own is None and len(learned) > 1:
        raise EvaluationError(
            f"{', '.join(subjects)} were not all trained on the same pictures with the same split, so the "
            f"validation pictures of one model may be training pictures of another. With {option}, give pictures on "
            "which no model was trained."
        )
    data = samples.load(next(iter(subjects.values())), chosen, "validation", option=option)
    images = data.content.images
    for subject in subjects.values():
        subject.require_labels(data.labels)
        if own is not None and (problem := samples.used(subject, images, ("train", "test"))):
            raise EvaluationError(f"{problem} Without {option}, the model's validation pictures decide.")
    shown = f"{len(images):,} {'validation images' if own is None else f'images of {option}'}"
    left_out = [f"left out: {reason}" for reason in left_out]
    for note in (*left_out, *data.notes, f"Running and timing {', '.join(subjects)} on {shown}."):
        on_step(note)
    times = _times({name: opened[name] for name in subjects}, images)
    models = []
    for name, subject in subjects.items():
        answer = subject.answer(images)[OUTPUT]
        right = answer.argmax(axis=1) == data.content.classes
        models.append(Model(name, opened[name].file, answer.max(axis=1), right, *times[name]))
    return Measured(models, images, shown)


def _open(repository: Path, member: str) -> _Opened:
    """Load NAME (the served version) or NAME@VERSION. Raises UserError if there is no such model, or if a cascade
    cannot use it."""
    name, _, version = member.partition("@")
    files = require_versions(repository, name)
    file = next((file for file in files if version in ("", str(file.version))), None)
    if file is None:
        there = ", ".join(f"{name}@{file.version}" for file in files)
        raise EvaluationError(f"{repository} has no {member}, but has {there}.")
    settings = settings_of(repository / name, ServerConfig(models=repository))
    subject = of_file(file.path, threads=1)
    if problem := _RULE.problem(subject.signature):
        raise EvaluationError(f"{member} cannot be in a cascade: {problem.removeprefix('accept: ')}.")
    if subject.task != "single_label":
        raise EvaluationError(f"{member} predicts sets of labels, but a cascade decides by the most probable label.")
    return _Opened(file, subject, min(settings.max_batch_size, _LARGEST_BATCH))


def _differing(first: str, subjects: Mapping[str, Subject]) -> dict[str, str]:
    """Return a sentence for each model whose signature differs from the signature of the model ``first``."""
    return {
        name: f"{first} and {name} differ in {difference}, so no route can have both."
        for name, subject in subjects.items()
        if (difference := subjects[first].signature.difference(subject.signature))
    }


def _times(opened: Mapping[str, _Opened], images: Array) -> dict[str, list[float]]:
    """Measure the shortest time per sample on one processor: for batches of a single sample, and for full batches.

    In each round the models take turns, so that other programs disturb all models equally.
    """
    shortest = {name: [math.inf, math.inf] for name in opened}
    for _ in range(_ROUNDS):
        for name, one in opened.items():
            for place, size in enumerate((1, one.full)):
                batch = np.resize(images, (size, *images.shape[1:]))
                started = time.perf_counter()
                one.subject.answer(batch)
                shortest[name][place] = min(shortest[name][place], (time.perf_counter() - started) / size)
    return shortest
