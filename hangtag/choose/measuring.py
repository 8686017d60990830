"""Lets every model of a repository answer labelled pictures, and measures how long each of them takes on this
machine."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hangtag.choose.candidates import Model
from hangtag.choose.queueing import Batching, ServiceTimes
from hangtag.evaluation import samples
from hangtag.evaluation.errors import EvaluationError
from hangtag.evaluation.file_subject import FileSubject
from hangtag.evaluation.subject import Array, require_labels
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
from hangtag.serving.server.errors import StartError
from hangtag.training.data.dataset import Classes

OUTPUT = "probabilities"
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Batch sizes that are timed, as far as a model's settings allow; the model's largest batch is timed too."""
_LARGEST = 256
"""The largest batch that is timed. A model that takes larger ones is assumed to compute them in proportion."""
_LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Measured:
    """What is known of the models before anything is served.

    Attributes:
        models: The measured models, which have one signature.
        files: The file of each model.
        images: The images that the models answered, uint8.
        classes: The right label of each image, [images].
        shown: Says how many images there are, and which.
        notes: A sentence for each model, or each part of the pictures, that was left out.
        chose_epochs: Whether the models' best epochs were chosen by these images.
    """

    models: Sequence[Model]
    files: Sequence[ModelFile]
    images: Array
    classes: Classes
    shown: str
    notes: Sequence[str]
    chose_epochs: bool = False


def measure(
    repository: Path, names: Sequence[str], own: str | None = None, *, split: str = "validation",
    limit: int | None = None, data_dir: Path | None = None, option: str = "--data",
    sizes: Sequence[int] = SIZES, seconds: float = 3.0, on_step: Callable[[str], None] | None = None,
) -> Measured:  # fmt: skip
    """Measure models of a repository.

    Args:
        repository: The model repository.
        names: NAME (the version that serves) or NAME@VERSION; if empty, every model that serves, or of several
            signatures the models of the most frequent one.
        own: Labelled samples that none of the models was trained on (see ``samples.load``); None: a split of the data
            set that the models learned from.
        split: ``validation`` or ``test``.
        limit: Use at most this many images, the first ones.
        data_dir: The data set's folder; None for its usual places.
        option: The command's option for ``own``, for messages.
        sizes: Batch sizes that are timed in addition to each model's largest, ascending.
        seconds: The least time that the timing takes; there are a few rounds in any case.
        on_step: Receives a sentence before the models answer and are timed.

    Raises:
        EvaluationError: A model that was named is missing or cannot be compared, there are several signatures, there is
            no model left, or a model's serving.toml is not valid.
        TrainingError: The data set is missing or damaged.
    """
    members = _members(repository, names)
    with ExitStack() as stack:
        subjects, batching, notes = dict[str, FileSubject](), dict[str, Batching](), list[str]()
        for name, file in members.items():
            try:
                subject = stack.enter_context(FileSubject(file.path, threads=1))
                _require_comparable(name, subject)
                batching[name] = _batching(repository, file.name)
            except EvaluationError as error:
                if names:
                    raise
                notes.append(f"left out: {error}")
                continue
            subjects[name] = subject
        if not names:
            notes += _leave_out(subjects)
        if not subjects:
            raise EvaluationError(f"{repository} has no model to choose from that classifies pictures. {notes[0]}")
        for difference in _differences(subjects):
            raise EvaluationError(
                f"the models of a route must have one signature. {difference}. Name models that are alike."
            )
        if own is None:
            _require_same_data(subjects, option)
        data = samples.load(next(iter(subjects.values())), split, limit, data_dir, None, own, option=option)
        for subject in subjects.values():
            require_labels(subject, data.labels)
            notes += filter(None, [samples.learned(subject, data.images)])
        shown = f"{len(data):,} {f'{split} images' if own is None else f'images of {option}'}"
        if on_step is not None:
            on_step(f"{', '.join(subjects)}: each answers {shown} and is timed.")
        answers = {name: subject.answer(data.images, _ignore)[OUTPUT] for name, subject in subjects.items()}
        batches = {
            name: [size for size in sizes if size < most] + [min(most, _LARGEST)]
            for name, most in ((name, batching[name].max_batch_size) for name in subjects)
        }
        times = _service_times(subjects, data.images, batches, seconds)
        return Measured(
            [Model(name, answers[name], times[name], batching[name]) for name in subjects],
            [members[name] for name in subjects],
            data.images,
            data.content.classes,
            shown,
            [*notes, *data.notes],
            own is None and split == "validation",
        )


def _members(repository: Path, names: Sequence[str]) -> dict[str, ModelFile]:
    """The file of each name. Raises EvaluationError if a file is missing or a name is given twice."""
    try:
        for route in (name for name in names if is_route(repository, name)):
            settings = read_toml(repository / route / ROUTE_FILE)
            members = ", ".join(map(str, settings.get("cascade") or settings.get("split") or ()))
            raise EvaluationError(f"{route} is a route; name its models instead: {members}.")
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
        raise EvaluationError(f"{repository} has no {member}; of {name} it has {there}.")
    return chosen[0]


def _require_comparable(name: str, subject: FileSubject) -> None:
    if subject.task != "single_label":
        raise EvaluationError(f"{name} predicts sets of labels; a cascade decides by the most probable label.")
    if not subject.signature.batched:
        raise EvaluationError(f"{name} answers one picture at a time: {subject.signature.why_unbatched}.")
    outputs = [spec.name for spec in subject.signature.outputs]
    if OUTPUT not in outputs:
        raise EvaluationError(f"{name} has no output {OUTPUT!r}; it has {', '.join(outputs)}.")


def _batching(repository: Path, name: str) -> Batching:
    """How a server with default settings batches a model's calls: by the model's serving.toml, if it has one."""
    try:
        config = settings_of(repository / name, ServerConfig(models=repository))
    except StartError as error:
        raise EvaluationError(f"{error}.") from error
    delay = config.max_queue_delay_microseconds / 1e6
    return Batching(config.instance_count, config.max_batch_size, config.max_queue_size, delay)


def _leave_out(subjects: dict[str, FileSubject]) -> list[str]:
    """Keep the largest group of models with one signature, of equal ones the first. Returns a note for each other."""
    alike = {
        name: [other for other, one in subjects.items() if not subject.signature.difference(one.signature)]
        for name, subject in subjects.items()
    }
    kept = max(alike, key=lambda name: len(alike[name]), default="")
    first = {kept: subjects[kept]} if kept else {}
    notes = []
    for name in [name for name in subjects if name not in alike.get(kept, ())]:
        notes += [f"left out: {each}." for each in _differences(first | {name: subjects.pop(name)})]
    return notes


def _differences(subjects: Mapping[str, FileSubject]) -> Iterator[str]:
    """How each model's signature differs from the first one's; no server puts such models into one route."""
    (name, subject), *others = subjects.items()
    for other_name, other in others:
        if difference := subject.signature.difference(other.signature):
            what, own, others_own = difference
            yield f"{name} and {other_name} differ in {what}: {_in_words(own)}, against {_in_words(others_own)}"


def _in_words(value: object) -> str:
    return named([str(each) for each in value]) if isinstance(value, tuple) else str(value)


def _require_same_data(subjects: dict[str, FileSubject], option: str) -> None:
    """Refuse models of different data sets or splits: a validation picture of one may be a training picture of
    another."""
    learned = {name: None if one.config is None else one.config.get("data_digest") for name, one in subjects.items()}
    first, digest = next(iter(learned.items()))
    for name, other in learned.items():
        if None not in (other, digest) and other != digest:
            raise EvaluationError(
                f"{name} learned from other pictures than {first}, or from a different split, so it may have learned "
                f"from {first}'s validation pictures. With {option}, name pictures that no model was trained on."
            )


def _service_times(
    subjects: dict[str, FileSubject], images: Array, sizes: dict[str, list[int]], seconds: float
) -> dict[str, ServiceTimes]:
    """For each of a model's batch sizes, the shortest time on one processor in several rounds.

    In a round the models take turns, so that other programs disturb all of them.
    """
    shortest = {(name, size): math.inf for name in subjects for size in sizes[name]}
    batches = {size: np.resize(images, (size, *images.shape[1:])) for _, size in shortest}
    began, rounds = time.perf_counter(), 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() - began < seconds:
        rounds += 1
        for name, size in shortest:
            started = time.perf_counter()
            subjects[name].answer(batches[size], _ignore)
            shortest[name, size] = min(shortest[name, size], time.perf_counter() - started)
    return {name: ServiceTimes(sizes[name], [shortest[name, size] for size in sizes[name]]) for name in subjects}


def _ignore(_count: int) -> None:
    """Show no progress."""
