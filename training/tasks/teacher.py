"""Teachers: which files teach by default, the average of several, and their logits of all training images."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.model_repository import ModelRepositoryError, versions_in
from hangtag.training.data.dataset import Images
from hangtag.training.errors import RunMismatchError, TeacherError
from hangtag.training.observer import Observer
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.runs.files import RESTART_HINT
from hangtag.training.runs.run import Run
from hangtag.training.tasks.onnx_teacher import TEACHERS, Logits, OnnxTeacher, how_to_get_a_teacher

Teacher = Callable[[Images], Logits]
"""A trained model that another learns from: uint8 images [n, ...] to logits [n, labels]."""
_BATCH = 500


class TeacherEnsemble:
    """The average of several teachers' logits (Hinton et al., Distilling the Knowledge in a Neural Network, 2015).

    Softmax turns it into the geometric mean of their probabilities, at every temperature.
    """

    def __init__(self, paths: Sequence[Path], labels: tuple[str, ...], image: ImageSpec, threads: int = 1) -> None:
        """Load the teachers of these labels and images, each of which computes with so many CPU threads.

        Raises TeacherError for a file that cannot teach, and for a model that is named twice.
        """
        teachers = [OnnxTeacher(path, labels, image, threads) for path in paths]
        self.files = tuple(teacher.file for teacher in teachers)
        # Sorted by content, since the order of a sum changes its rounding: --teacher options may come in any order.
        self._teachers = sorted(teachers, key=lambda teacher: teacher.file.digest)
        for one, other in pairwise(teacher.file for teacher in self._teachers):
            if one == other:
                raise TeacherError(f"the teachers {one.path} and {other.path} are the same model.")

    def __call__(self, images: Images) -> Logits:
        """The average logits [n, labels] of uint8 images. Raises TeacherError as the teachers do."""
        logits: Logits = np.mean([teacher(images) for teacher in self._teachers], axis=0)
        return logits


def teacher_logits(
    teacher: Teacher,
    images: Images,
    labels: int,
    run: Run,
    group: ProcessGroup,
    observer: Observer,
    *,
    mirrored: bool,
) -> Logits:
    """The teacher's logits [n, labels] of images [n, ...]. They are computed once in a run, whose folder keeps them.

    Each rank computes its share, and all ranks get all.

    Args:
        teacher: What computes them.
        images: uint8.
        labels: How many there are.
        run: The folder. A run that is resumed reads them from there.
        group: The ranks.
        observer: Receives progress, and may request a stop between two batches.
        mirrored: Average them over the image and its mirror image, where the recipe mirrors images too: both then have
            the same label, and the average of two predictions is more accurate than one.

    Raises:
        KeyboardInterrupt: The observer of a rank requests a stop.
        TeacherError: The teacher fails on the images.
        RunMismatchError: The run's file is damaged, or the folder cannot be written.
    """
    stored = group.on_rank_zero(lambda: _stored(run, (len(images), labels)))
    if stored is not None:
        return stored
    share = np.arange(group.rank, len(images), group.world_size)

    def compute_share() -> Logits:
        batches = [np.empty((0, labels), np.float32)]
        for start in range(0, len(share), _BATCH):
            observer.raise_if_stopped()
            batch = images[share[start : start + _BATCH]]
            answers = [teacher(batch), teacher(batch[:, :, ::-1])] if mirrored else [teacher(batch)]
            batches.append(np.mean(answers, axis=0))
            observer.on_teacher_logits(len(answers) * (start + len(batch)), len(answers) * len(share))
        return np.concatenate(batches)

    logits = np.empty((len(images), labels), np.float32)
    for rank, part in enumerate(group.all_gather(group.on_every_rank(compute_share))):
        logits[rank :: group.world_size] = part
    group.on_rank_zero(lambda: run.save("teacher.pt", {"logits": torch.from_numpy(logits)}))
    return logits


def _stored(run: Run, shape: tuple[int, int]) -> Logits | None:
    if not run.has("teacher.pt"):
        return None
    logits: Tensor | None = run.load("teacher.pt").get("logits")
    if logits is None or logits.shape != shape:
        raise RunMismatchError(f"{run.folder / 'teacher.pt'} holds no logits of this run's images. {RESTART_HINT}")
    return logits.numpy()


def published_teachers(model: str, teachers: Path = TEACHERS) -> list[Path]:
    """The files of all versions of a model in the teachers' repository, the earliest first.

    Raises TeacherError if there are none, or the folder cannot be read.
    """
    try:
        files = versions_in(teachers / model)
    except ModelRepositoryError as error:
        raise TeacherError(f"{error}. {how_to_get_a_teacher(model)}") from error
    if not files:
        raise TeacherError(f"no {model} under {teachers} to learn from. {how_to_get_a_teacher(model)}")
    return [file.path for file in reversed(files)]
