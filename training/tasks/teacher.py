"""Teachers: exported ONNX files, the average of several, and their logits of all training images.

The only module of training that uses ONNX Runtime.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hangtag.extras import needs
from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.model_repository import ModelRepositoryError, versions_in
from hangtag.training.data.dataset import Images
from hangtag.training.errors import RunMismatchError, TeacherError
from hangtag.training.observer import Observer
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.runs.config import TeacherFile
from hangtag.training.runs.run import RESTART_HINT, Run

Logits = npt.NDArray[np.float32]
Teacher = Callable[[Images], Logits]
"""A trained model that another learns from: uint8 images [n, ...] to logits [n, labels]."""
TEACHERS = Path("runs", "teachers")
"""The model repository of teachers, which are not served."""
_BATCH = 500
_TELEMETRY = "ORT_DISABLE_TELEMETRY"


class OnnxTeacher:
    """Computes logits [n, labels] of uint8 images with ONNX Runtime on the CPU."""

    def __init__(self, path: Path, labels: tuple[str, ...], image: ImageSpec, threads: int = 1) -> None:
        """Load the file.

        Args:
            path: The ONNX file.
            labels: Those that it must have, in their order.
            image: What it must take.
            threads: How many CPU threads compute.

        Raises:
            TeacherError: The file is missing, broken, or not a classifier of these images and labels.
            MissingExtraError: ONNX Runtime is not installed.
        """
        onnxruntime = _import_onnxruntime()
        try:
            contents = path.read_bytes()
        except OSError as error:
            raise TeacherError(
                f"the teacher {path} cannot be read ({error.strerror}). {how_to_get_a_teacher()}"
            ) from error
        try:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            # Between two answers PyTorch trains on the same CPUs, which waiting threads must leave to it.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._session = onnxruntime.InferenceSession(contents, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has an exception class for each kind of failure
            raise TeacherError(f"the teacher {path} cannot be loaded as a model ({_reason(error)}).") from error
        self.file = TeacherFile(hashlib.sha256(contents).hexdigest()[:12], str(path))
        self._labels = labels
        self._require(image)

    def __call__(self, images: Images) -> Logits:
        """Raises TeacherError if the model fails on the images, or its logits are not finite."""
        try:
            logits: Logits = self._session.run(["logits"], {"image": np.ascontiguousarray(images)})[0]
        except Exception as error:  # as above
            raise TeacherError(f"the teacher {self.file.path} fails on the images ({_reason(error)}).") from error
        if broken := int((~np.isfinite(logits).all(axis=1)).sum()):
            raise TeacherError(
                f"the teacher {self.file.path} gave logits that are not finite for {broken} of {len(images)} images: "
                "its training or its conversion went wrong. Choose another."
            )
        return logits

    def _require(self, image: ImageSpec) -> None:
        """Raises TeacherError unless the file takes any number of these images, and answers with the labels' logits.

        A file without labels in its metadata is accepted, since its number of logits is right.
        """
        inputs = {tensor.name: (tensor.type, list(tensor.shape)) for tensor in self._session.get_inputs()}
        outputs = {tensor.name: list(tensor.shape[1:]) for tensor in self._session.get_outputs()}
        kind, (batch, *shape) = inputs.get("image", ("", [0]))
        takes_images = len(inputs) == 1 and kind == "tensor(uint8)" and shape == list(image.shape)
        if not takes_images or isinstance(batch, int) or outputs.get("logits") != [len(self._labels)]:
            expected = ", ".join(map(str, ("batch", *image.shape)))
            raise TeacherError(
                f"the teacher {self.file.path} must have the input image: UINT8 [{expected}], for batches of any size, "
                f"and the output logits: FP32 [batch, {len(self._labels)}], but its inputs are {inputs} and its "
                f"outputs {outputs}."
            )
        metadata = self._session.get_modelmeta().custom_metadata_map.get("hangtag.labels")
        if metadata is not None and (labels := _tuple(metadata)) != self._labels:
            raise TeacherError(
                f"the teacher {self.file.path} has the labels {', '.join(map(str, labels)) or 'none'}; it must have "
                f"{', '.join(self._labels)}, in this order."
            )


class TeacherEnsemble:
    """The average of several teachers' logits (Hinton et al., Distilling the Knowledge in a Neural Network, 2015).

    Softmax turns it into the geometric mean of their probabilities, at every temperature.
    """

    def __init__(self, paths: Sequence[Path], labels: tuple[str, ...], image: ImageSpec, threads: int = 1) -> None:
        """Load the teachers of these labels and images, each of which computes with so many CPU threads.

        Raises as OnnxTeacher does, and TeacherError for a model that is named twice.
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


def how_to_get_a_teacher(model: str = "resnet") -> str:
    """What to do without a teacher, as a sentence for the end of an error message."""
    network = model.removesuffix("-int8")
    precision = "" if network == model else "--precision int8 "
    return (
        "Name an exported model with --teacher FILE.onnx, or train one: "
        f"hangtag train {network} --recipe teacher, then hangtag export {network} {precision}--models {TEACHERS}."
    )


def _tuple(labels: str) -> tuple[Any, ...]:
    try:
        return tuple(json.loads(labels))
    except (ValueError, TypeError):
        return ()


def _import_onnxruntime() -> Any:
    """Import an extra that only distillation needs, with its telemetry off; the environment stays as it was."""
    before = os.environ.get(_TELEMETRY)
    os.environ[_TELEMETRY] = before or "1"  # ONNX Runtime reads it while it is imported
    try:
        with needs("cpu", "learning from a teacher"):
            import onnxruntime
    finally:
        if before is None:
            del os.environ[_TELEMETRY]
    return onnxruntime


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
