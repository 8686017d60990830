"""Lets the models of a cascade answer the validation images, and measures what an image takes in each of them."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hangtag.evaluation import samples
from hangtag.evaluation.cascade.curve import Curve, Floats, curve
from hangtag.evaluation.errors import EvaluationError
from hangtag.evaluation.file_subject import FileSubject
from hangtag.evaluation.subject import BATCH_SIZE, Array, Outputs, require_labels
from hangtag.serving.model_repository import ModelFile, ModelRepositoryError, require_versions
from hangtag.training.data.dataset import Classes

OUTPUT = "probabilities"
_ROUNDS = 7


@dataclass(frozen=True)
class Members:
    """The models of a cascade, with what they answered and how long they took.

    Attributes:
        files: The models' files, the fastest model first.
        answers: Probabilities of each model, [images, labels].
        classes: The right label of each image, [images].
        microseconds: What an image takes in each model, in a full batch, on all CPUs.
        names: The models as the route names them: NAME, or NAME@VERSION.
        own: Whether the images are samples of the user's own, and not a split of the models' data set.
        notes: Sentences about what was left out of these samples.
    """

    files: Sequence[ModelFile]
    answers: Sequence[Floats]
    classes: Classes
    microseconds: Sequence[float]
    names: Sequence[str]
    own: bool = False
    notes: Sequence[str] = ()

    @property
    def images(self) -> str:
        """How many images answered, and which."""
        return f"{len(self.classes):,} {'images of --samples' if self.own else 'validation images'}"

    def curve(self) -> Curve:
        """What each threshold makes of the images."""
        return curve(self.answers, self.classes)

    def without(self, place: int) -> "Members":
        """The cascade without the model in this place, from 0."""
        kept = [at for at in range(len(self.files)) if at != place]
        return Members(
            [self.files[at] for at in kept],
            [self.answers[at] for at in kept],
            self.classes,
            [self.microseconds[at] for at in kept],
            [self.names[at] for at in kept],
            self.own,
        )


def measure(
    models: Path, names: Sequence[str], *, split: str = "validation", limit: int | None = None,
    data_dir: Path | None = None, own: str | None = None,
) -> Members:  # fmt: skip
    """Let models answer a split of the data set that they were trained on, or samples.

    Args:
        models: The model repository.
        names: The models, the fastest first: NAME@VERSION, or NAME for the version that serves.
        split: ``validation`` or ``test``.
        limit: Use only so many images, the first ones.
        data_dir: The data set's folder; None for its usual places.
        own: Samples in place of a data set; see ``samples.load``.

    Raises:
        EvaluationError: A model is missing or named twice, fails, is no classifier with probabilities of the data set's
            labels, or learned from other pictures than the first.
        TrainingError: The data set is missing or damaged.
    """
    files = [_file(models, name) for name in names]
    if len(set(files)) < len(files):
        raise EvaluationError(f"a model is named twice: {', '.join(names)}.")
    with ExitStack() as stack:
        subjects = [stack.enter_context(FileSubject(file.path)) for file in files]
        for name, subject in zip(names, subjects, strict=True):
            if subject.task != "single_label":
                raise EvaluationError(f"{name} predicts sets of labels; a cascade goes by the most probable label.")
        if own is None:
            _require_same_data(names, subjects)
        data = samples.load(subjects[0], split, limit, data_dir, None, own)
        for subject in subjects:
            require_labels(subject, data.labels)
        answers = [
            _probabilities(name, subject.answer(data.images, _ignore))
            for name, subject in zip(names, subjects, strict=True)
        ]
        times = _microseconds(subjects, data.images[:BATCH_SIZE])
        return Members(files, answers, data.content.classes, times, names, own is not None, data.notes)


def _require_same_data(names: Sequence[str], subjects: Sequence[FileSubject]) -> None:
    """Refuse models of several data sets, or divisions of one: what validates one may have trained another."""
    learned = [None if subject.config is None else subject.config.get("data_digest") for subject in subjects]
    for name, digest in zip(names, learned, strict=True):
        if None not in (digest, learned[0]) and digest != learned[0]:
            raise EvaluationError(
                f"{name} learned from other pictures than {names[0]}, or from others of the same, so {names[0]}'s "
                f"validation pictures may be among those that {name} learned from. Name pictures that none of them was "
                "trained on, with --samples."
            )


def _file(models: Path, member: str) -> ModelFile:
    """The file of NAME@VERSION, or of the version of NAME that serves."""
    name, at, version = member.partition("@")
    try:
        files = require_versions(models, name)
    except ModelRepositoryError as error:
        raise EvaluationError(str(error)) from error
    if not at:
        return files[0]
    for file in files:
        if str(file.version) == version:
            return file
    there = ", ".join(f"{name}@{file.version}" for file in files)
    raise EvaluationError(f"{models} has no {member}; of {name} it has {there}.")


def _probabilities(name: str, outputs: Outputs) -> Floats:
    if OUTPUT not in outputs:
        raise EvaluationError(f"{name} has no output {OUTPUT!r}; it has {', '.join(outputs)}.")
    return outputs[OUTPUT]


def _microseconds(subjects: Sequence[FileSubject], batch: Array) -> list[float]:
    """The shortest of a few rounds, in which the models take turns, so that other programs disturb all of them."""
    seconds: list[list[float]] = [[] for _ in subjects]
    for _ in range(_ROUNDS):
        for subject, times in zip(subjects, seconds, strict=True):
            started = time.perf_counter()
            subject.answer(batch, _ignore)
            times.append(time.perf_counter() - started)
    return [min(times) / len(batch) * 1e6 for times in seconds]


def _ignore(_count: int) -> None:
    """No progress is shown."""
