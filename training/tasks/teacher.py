"""Trained models that others learn from: any ONNX files of ours, as they would be served."""

import hashlib
import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.model_repository import ModelRepositoryError, versions_in
from hangtag.training.data.fashion_mnist import LABELS, Images
from hangtag.training.errors import TeacherError
from hangtag.training.observer import Watch
from hangtag.training.processes.process_group import Group
from hangtag.training.runs.config import TeacherFile
from hangtag.training.tasks.task import Teacher

Logits = npt.NDArray[np.float32]
_BATCH = 500
TEACHERS = Path("runs", "teachers")
"""A model repository of its own, beside the runs: teachers are not served."""


class OnnxTeacher:
    """Logits [n, 10] of uint8 images [n, 28, 28], by ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        """Raises TeacherError for a file that is missing, broken, or no classifier of these images and labels."""
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it while it is imported
        try:
            import onnxruntime  # distillation alone needs it
        except ModuleNotFoundError as error:
            raise TeacherError(
                "learning from a teacher needs the Python module 'onnxruntime', which is not installed here. "
                "In the project's folder, install it with: pip install '.[cpu]'"
            ) from error
        try:
            contents = path.read_bytes()
        except OSError as error:
            raise TeacherError(f"the teacher {path} cannot be read ({error.strerror}). {_how_to_get_one()}") from error
        try:
            self._session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class of ONNX Runtime's own for each kind of trouble
            raise TeacherError(f"the teacher {path} is no model that can be loaded ({_reason(error)}).") from error
        self.file = TeacherFile(hashlib.sha256(contents).hexdigest()[:12], str(path))
        self._require_images_and_logits()
        self._require_labels()

    def __call__(self, images: Images) -> Logits:
        """Raises TeacherError where it fails on them, or answers with what is no number."""
        try:
            logits: Logits = self._session.run(["logits"], {"image": np.ascontiguousarray(images)})[0]
        except Exception as error:  # as above
            raise TeacherError(f"the teacher {self.file.path} fails on the images ({_reason(error)}).") from error
        if logits.shape != (len(images), len(LABELS)):
            raise TeacherError(
                f"the teacher {self.file.path} answers {len(images)} images with logits of the shape "
                f"{list(logits.shape)}; it must be {[len(images), len(LABELS)]}."
            )
        if broken := int((~np.isfinite(logits).all(axis=1)).sum()):
            raise TeacherError(
                f"the teacher {self.file.path} answers {broken} of {len(images)} images with logits that are not "
                "finite: its training, or its conversion, went wrong. Choose another."
            )
        return logits

    def _require_images_and_logits(self) -> None:
        inputs = {tensor.name: (tensor.type, list(tensor.shape[1:])) for tensor in self._session.get_inputs()}
        outputs = {tensor.name: list(tensor.shape[1:]) for tensor in self._session.get_outputs()}
        if inputs != {"image": ("tensor(uint8)", [28, 28])} or outputs.get("logits") != [len(LABELS)]:
            raise TeacherError(
                f"the teacher {self.file.path} must read image: UINT8 [batch, 28, 28] and give logits: FP32 "
                f"[batch, {len(LABELS)}], but it reads {inputs} and gives {outputs}."
            )
        fixed = self._session.get_inputs()[0].shape[0]
        if isinstance(fixed, int):
            raise TeacherError(
                f"the teacher {self.file.path} takes batches of {fixed} alone; it must take any number of images, as "
                "what 'hangtag export' publishes."
            )

    def _require_labels(self) -> None:
        """A file that does not say its labels is taken at its word that it gives as many logits."""
        said = self._session.get_modelmeta().custom_metadata_map.get("hangtag.labels")
        labels = LABELS if said is None else _tuple(said)
        if labels != LABELS:
            raise TeacherError(
                f"the teacher {self.file.path} knows the labels {', '.join(map(str, labels)) or 'none'}; those to "
                f"learn are {', '.join(LABELS)}, in this order."
            )


class Ensemble:
    """The average of several teachers' logits (Hinton et al., Distilling the Knowledge in a Neural Network, 2015).

    Softmax makes of it their probabilities' geometric mean, at every temperature.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises TeacherError for a file that cannot teach, and for one that is named twice."""
        teachers = [OnnxTeacher(path) for path in paths]
        self.files = tuple(teacher.file for teacher in teachers)
        # In an order that their contents alone decide, as sums of floats depend on it.
        self._teachers = sorted(teachers, key=lambda teacher: teacher.file.digest)
        for one, other in pairwise(teacher.file for teacher in self._teachers):
            if one == other:
                raise TeacherError(f"the teachers {one.path} and {other.path} are one and the same model.")

    def __call__(self, images: Images) -> Logits:
        logits: Logits = np.mean([teacher(images) for teacher in self._teachers], axis=0)
        return logits


def answers(teacher: Teacher, images: Images, group: Group, watch: Watch) -> Logits:
    """The teacher's logits [n, classes] of images [n, 28, 28], each averaged over the image and its mirror image.

    A garment is what it is from either side, and two looks at it tell more than one: the average is a better teacher.
    Each process asks about its share of the images, and all get all answers. Raises KeyboardInterrupt between two
    batches where a stop is wanted, and what the teacher raises.
    """
    mine = np.arange(group.rank, len(images), group.size)

    def ask() -> Logits:
        told = [np.empty((0, len(LABELS)), np.float32)]
        for start in range(0, len(mine), _BATCH):
            watch.check()
            batch = images[mine[start : start + _BATCH]]
            told.append(np.mean([teacher(batch), teacher(batch[:, :, ::-1])], axis=0))
            watch.taught(2 * (start + len(batch)), 2 * len(mine))
        return np.concatenate(told)

    logits = np.empty((len(images), len(LABELS)), np.float32)
    for rank, part in enumerate(group.gather(group.together(ask))):
        logits[rank :: group.size] = part
    return logits


def published(model: str, teachers: Path = TEACHERS) -> list[Path]:
    """The files of all versions of a model in a repository of teachers, the earliest first.

    Raises TeacherError where there is none, and for a folder that cannot be read.
    """
    try:
        files = versions_in(teachers / model)
    except ModelRepositoryError as error:
        raise TeacherError(f"{error}. {_how_to_get_one(model)}") from error
    if not files:
        raise TeacherError(f"no {model} under {teachers} to learn from. {_how_to_get_one(model)}")
    return [file.path for file in reversed(files)]


def _how_to_get_one(model: str = "resnet") -> str:
    return (
        f"Name an exported model with --teacher FILE.onnx, or make one: hangtag train {model} --recipe teacher, then "
        f"hangtag export {model} --models {TEACHERS}."
    )


def _tuple(labels: str) -> tuple[Any, ...]:
    try:
        return tuple(json.loads(labels))
    except (ValueError, TypeError):
        return ()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
