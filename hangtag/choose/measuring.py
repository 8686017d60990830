"""Runs every model of a repository on labelled pictures, and measures the times of the models on this machine."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hangtag.choose.candidates import Model
from hangtag.choose.queueing import Stage
from hangtag.errors import UserError
from hangtag.evaluation import samples
from hangtag.evaluation.file_subject import FileSubject
from hangtag.evaluation.subject import Array, EvaluationError, require_labels
from hangtag.printable import named
from hangtag.serving.model_repository import (
    ROUTE_FILE,
    ModelFile,
    ModelRepositoryError,
    is_route,
    read_toml,
    require_names,
    require_versions,
)
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.repository import settings_of

OUTPUT = "probabilities"
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
"""The batch sizes that are timed. Sizes above a model's max_batch_size are left out, and max_batch_size itself is timed
too."""
_LARGEST = 256
"""The largest batch size that is timed. The time of a larger batch is assumed to be proportional to its size."""
_LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Measured:
    """The models' answers and times, measured without a server.

    Attributes:
        models: The measured models, which all have the same signature.
        images: The images that the models answered, uint8.
        shown: A description of the images, such as "5,000 validation images".
        chose_epochs: Whether the models' best epochs were chosen by these images.
    """

    models: Sequence[Model]
    images: Array
    shown: str
    chose_epochs: bool = False


def measure(
    repository: Path, names: Sequence[str], own: str | None, option: str, *, limit: int | None, data_dir: Path | None,
    on_step: Callable[[str], None], seconds: float = 3.0,
) -> Measured:  # fmt: skip
    """Measure models of a repository.

    Args:
        repository: The model repository.
        names: The models, as NAME (for the version that serves) or NAME@VERSION. If empty, all models that serve are
            candidates, and those with the most frequent signature are measured.
        own: Labelled samples on which none of the models was trained (see ``samples.load``); None for the validation
            split of the data set on which the models were trained.
        option: The command's option for ``own``, for messages.
        limit: The number of images to use, from the first image on; None for all images.
        data_dir: The data set's folder; None for the data set's usual folders.
        on_step: A function that is called with a sentence for each model that is left out, for each group of pictures
            that is left out, and before the models are run and timed.
        seconds: The minimum duration of the timing. With 0, only the largest batch of each model is timed, for a few
            rounds.

    Raises:
        EvaluationError: A named model is missing or cannot be compared, named models differ in their signatures, no
            model is left, or a model's serving.toml is not valid.
        TrainingError: The data set is missing or damaged.
    """
    files = _members(repository, names)
    with ExitStack() as stack:
        subjects, settings, notes = dict[str, FileSubject](), dict[str, ServerConfig](), list[str]()
        for name, file in files.items():
            try:
                subject = stack.enter_context(FileSubject(file.path, threads=1))
                _require_comparable(name, subject)
                settings[name] = _settings(repository, file.name)
            except EvaluationError as error:
                if names:
                    raise
                notes.append(f"left out: {error}")
                continue
            subjects[name] = subject
        if not names:
            notes += _leave_out(subjects)
            for name in [each for each in subjects if own is None and not samples.knows_pictures(subjects[each])]:
                del subjects[name]
                notes.append(
                    f"left out: {name} does not say on which pictures it was trained. Name some with {option}."
                )
        if not subjects:
            raise EvaluationError(f"{repository} has no model that can be chosen. {notes[0]}")
        for difference in _differences(next(iter(subjects)), subjects).values():
            raise EvaluationError(
                f"the models of a route must have the same signature. {difference}. Name models with equal signatures."
            )
        if own is None:
            _require_same_data(subjects, option)
        data = samples.load(next(iter(subjects.values())), "validation", limit, data_dir, None, own, option=option)
        for subject in subjects.values():
            require_labels(subject, data.labels)
            if own is not None and (problem := samples.used(subject, data.images, ("train", "test"))):
                raise EvaluationError(f"{problem} Without {option}, the model's validation pictures decide.")
        shown = f"{len(data):,} {'validation images' if own is None else f'images of {option}'}"
        for note in (*notes, *data.notes, f"Running and timing {', '.join(subjects)} on {shown}."):
            on_step(note)
        answers = [subject.answer(data.images)[OUTPUT] for subject in subjects.values()]
        stages = _timed(subjects, data.images, settings, seconds)
        models = [
            Model(name, answer.max(axis=1), answer.argmax(axis=1) == data.content.classes, stage, files[name])
            for name, answer, stage in zip(subjects, answers, stages, strict=True)
        ]
        return Measured(models, data.images, shown, own is None)


def _members(repository: Path, names: Sequence[str]) -> dict[str, ModelFile]:
    """Map the name of each model to its file. Raises EvaluationError if a file is missing or a name is given twice."""
    try:
        for route in (name for name in names if is_route(repository, name)):
            settings = read_toml(repository / route / ROUTE_FILE)
            members = ", ".join(map(str, settings.get("cascade") or settings.get("split") or ()))
            raise EvaluationError(f"{route} is a route. Name the models of the route instead: {members}.")
        wanted = names or [name for name in require_names(repository) if not is_route(repository, name)]
        files = {name: _file(repository, name) for name in wanted}
    except ModelRepositoryError as error:
        raise EvaluationError(str(error)) from error
    if len(set(files.values())) < len(wanted):
        raise EvaluationError(f"a model is named twice: {', '.join(wanted)}.")
    return files


def _file(repository: Path, member: str) -> ModelFile:
    name, _, version = member.partition("@")
    files = require_versions(repository, name)
    chosen = [file for file in files if version in ("", str(file.version))]
    if not chosen:
        there = ", ".join(f"{name}@{file.version}" for file in files)
        raise EvaluationError(f"{repository} has no {member}, but has {there or 'no version'} of {name}.")
    return chosen[0]


def _require_comparable(name: str, subject: FileSubject) -> None:
    if subject.task != "single_label":
        raise EvaluationError(f"{name} predicts sets of labels, but a cascade decides by the most probable label.")
    if not subject.signature.batched:
        raise EvaluationError(f"{name} computes one picture at a time, because {subject.signature.why_unbatched}.")
    outputs = [spec.name for spec in subject.signature.outputs]
    if OUTPUT not in outputs:
        raise EvaluationError(f"{name} has no output {OUTPUT!r}. Its outputs are: {', '.join(outputs)}.")


def _settings(repository: Path, name: str) -> ServerConfig:
    """Return a model's settings in a server with default settings. The model's serving.toml is applied."""
    try:
        return settings_of(repository / name, ServerConfig(models=repository))
    except UserError as error:
        raise EvaluationError(f"{error}.") from error


def _leave_out(subjects: dict[str, FileSubject]) -> list[str]:
    """Keep the largest group of models with the same signature, and return a note about each model that is left out.

    Of several equally large groups, the first is kept.
    """
    differing = [_differences(name, subjects) for name in subjects]
    left_out = min(differing, key=len, default={})
    for name in left_out:
        del subjects[name]
    return [f"left out: {difference}." for difference in left_out.values()]


def _differences(first: str, subjects: Mapping[str, FileSubject]) -> dict[str, str]:
    """Say for each model whose signature differs from the first model's how it differs. Models with different
    signatures cannot share a route."""
    differences = {}
    for name, subject in subjects.items():
        if difference := subjects[first].signature.difference(subject.signature):
            what, own, others_own = difference
            differences[name] = f"{first} and {name} differ in {what}: {_in_words(own)} and {_in_words(others_own)}"
    return differences


def _in_words(value: object) -> str:
    return named([str(each) for each in value]) if isinstance(value, tuple) else str(value)


def _require_same_data(subjects: dict[str, FileSubject], option: str) -> None:
    """Refuse models of different data sets or splits.

    A validation picture of one model may be a training picture of another model.
    """
    learned = {name: None if one.config is None else one.config.get("data_digest") for name, one in subjects.items()}
    first, digest = next(iter(learned.items()))
    for name, other in learned.items():
        if None not in (other, digest) and other != digest:
            raise EvaluationError(
                f"{name} was trained on other pictures than {first}, or with a different split, so {name} may have "
                f"been trained on validation pictures of {first}. Name pictures with {option} on which no model was "
                "trained."
            )


def _timed(
    subjects: Mapping[str, FileSubject], images: Array, settings: Mapping[str, ServerConfig], seconds: float
) -> list[Stage]:
    """Measure the shortest time of several rounds on one processor, for each model and batch size.

    In each round the models take turns, so that other programs disturb all models equally.
    """
    shortest = {}
    for name in subjects:
        most = settings[name].max_batch_size
        for size in [*(size for size in SIZES if seconds and size < most), min(most, _LARGEST)]:
            shortest[name, size] = math.inf
    batches = {size: np.resize(images, (size, *images.shape[1:])) for _, size in shortest}
    began, rounds = time.perf_counter(), 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() - began < seconds:
        rounds += 1
        for name, size in shortest:
            started = time.perf_counter()
            subjects[name].answer(batches[size])
            shortest[name, size] = min(shortest[name, size], time.perf_counter() - started)
    stages = []
    for name in subjects:
        config, times = settings[name], {size: time for (model, size), time in shortest.items() if model == name}
        delay = config.max_queue_delay_microseconds / 1e6
        most, waiting = config.max_batch_size, config.max_queue_size
        stages.append(Stage(tuple(times), tuple(times.values()), config.instance_count, most, waiting, delay))
    return stages
