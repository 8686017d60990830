"""Computes the average logits of teachers, which are exported ONNX files, for all training images.

No other module of training uses ONNX Runtime.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hangtag.errors import reason
from hangtag.extras import needs
from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.model_repository import ModelRepositoryError, versions_in
from hangtag.training.data.dataset import Images
from hangtag.training.errors import RunMismatchError, SettingsError
from hangtag.training.processes import ProcessGroup
from hangtag.training.progress import Observer
from hangtag.training.runs.config import WeightsFile
from hangtag.training.runs.run import RESTART_HINT, Run

Logits = npt.NDArray[np.float32]
Teacher = Callable[[Images], Logits]
"""A trained model that another model learns from. It maps uint8 images [n, ...] to logits [n, labels]."""
TEACHERS = Path("runs", "teachers")  # the teachers' model repository, which no server serves
_BATCH = 500


class TeacherEnsemble:
    """The average of several teachers' logits. Softmax turns this average into the geometric mean of the teachers'
    probabilities, at every temperature (Hinton et al., Distilling the Knowledge in a Neural Network, 2015)."""

    def __init__(self, paths: Sequence[Path], labels: tuple[str, ...], image: ImageSpec, threads: int = 1) -> None:
        """Load the ONNX files of teachers. Raises SettingsError if a file is missing, damaged, given twice, or not a
        classifier of these images and labels, and MissingExtraError if ONNX Runtime is not installed."""
        onnxruntime = _import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # ONNX Runtime's threads must not spin while they wait, because PyTorch then computes on the same CPUs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        sessions: dict[WeightsFile, Any] = {}
        for path in paths:
            try:
                file = WeightsFile.of(path)
                session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            except OSError as error:
                raise SettingsError(f"the teacher {path} cannot be read ({error.strerror}). {_advice()}") from error
            except Exception as error:  # ONNX Runtime has an exception class for each kind of failure
                why = reason(error)[:200]
                raise SettingsError(f"the teacher {path} cannot be loaded as a model ({why}).") from error
            _require_fitting(session, path, labels, image)
            if file in sessions:
                same = next(other.path for other in sessions if other == file)
                raise SettingsError(f"the teachers {same} and {path} are the same model.")
            sessions[file] = session
        self.files = tuple(sessions)
        # The teachers are sorted by content, because the order of a sum changes its rounding, and --teacher may list
        # the files in any order.
        self._sessions = sorted(sessions.items(), key=lambda item: item[0].digest)

    def __call__(self, images: Images) -> Logits:
        """Return the average logits [n, labels]. Raises SettingsError if a teacher fails, or a logit is not finite."""
        answers, inputs = [], {"image": np.ascontiguousarray(images)}
        for file, session in self._sessions:
            try:
                (logits,) = session.run(["logits"], inputs)
            except Exception as error:  # ONNX Runtime has an exception class for each kind of failure
                raise SettingsError(f"the teacher {file.path} fails on the images ({reason(error)[:200]}).") from error
            if broken := int((~np.isfinite(logits).all(axis=1)).sum()):
                raise SettingsError(
                    f"the teacher {file.path} returned NaN or infinite logits for {broken} of {len(images)} images: "
                    "its training or its export failed. Choose another teacher."
                )
            answers.append(logits)
        average: Logits = np.mean(answers, axis=0)
        return average


def _require_fitting(session: Any, path: Path, labels: tuple[str, ...], image: ImageSpec) -> None:
    """Raise SettingsError unless the file maps any number of these images to logits of these labels. The metadata may
    lack the labels."""
    inputs = {tensor.name: (tensor.type, list(tensor.shape)) for tensor in session.get_inputs()}
    outputs = {tensor.name: list(tensor.shape[1:]) for tensor in session.get_outputs()}
    kind, (batch, *shape) = inputs.get("image", ("", [0]))
    takes_images = len(inputs) == 1 and kind == "tensor(uint8)" and shape == list(image.shape)
    if not takes_images or isinstance(batch, int) or outputs.get("logits") != [len(labels)]:
        axes = ", ".join(map(str, ("batch", *image.shape)))
        raise SettingsError(
            f"the teacher {path} must have the input image: UINT8 [{axes}], for batches of any size, and the "
            f"output logits: FP32 [batch, {len(labels)}], but its inputs are {inputs} and its outputs are {outputs}."
        )
    expected = json.dumps(labels)
    if (recorded := session.get_modelmeta().custom_metadata_map.get("hangtag.labels", expected)) != expected:
        raise SettingsError(f"the teacher {path} has the labels {recorded}; it must have {expected}, in this order.")


def teacher_logits(
    teacher: Teacher, images: Images, labels: int, run: Run, group: ProcessGroup, observer: Observer, *, mirrored: bool
) -> Logits:
    """Return the teacher's logits [n, labels] of images [n, ...]. A resumed run reads the logits from its folder.
    Each rank computes the logits of a share of the images. If ``mirrored`` is true, the logits of an image and of its
    mirror image are averaged, because two predictions are more accurate than one.

    Raises KeyboardInterrupt if a rank's observer requests a stop, SettingsError if the teacher fails on the images, and
    RunMismatchError if the run's file of logits is damaged, or cannot be written.
    """
    if group.on_rank_zero(lambda: run.has("teacher.pt")):
        kept = group.on_rank_zero(lambda: run.load("teacher.pt")).get("logits")
        if kept is None or kept.shape != (len(images), labels):
            raise RunMismatchError(f"{run.folder / 'teacher.pt'} holds no logits of this run's images. {RESTART_HINT}")
        stored: Logits = kept.numpy()
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


def published_teachers(model: str) -> list[Path]:
    """Return the files of all versions of a model in the teachers' repository, the earliest version first. Raises
    SettingsError if there are none, or the folder cannot be read."""
    try:
        files = versions_in(TEACHERS / model)
    except ModelRepositoryError as error:
        raise SettingsError(f"{error}. {_advice(model)}") from error
    if not files:
        raise SettingsError(f"{TEACHERS} has no {model} to learn from. {_advice(model)}")
    return [file.path for file in reversed(files)]


def _advice(model: str = "resnet") -> str:
    network = model.removesuffix("-int8")
    precision = "" if network == model else "--precision int8 "
    return (
        "Name an exported model with --teacher FILE.onnx, or train one: "
        f"hangtag train {network} --recipe teacher, then hangtag export {network} {precision}--models {TEACHERS}."
    )


def _import_onnxruntime() -> Any:
    """Import ONNX Runtime, which only distillation needs, without telemetry. Environment variables stay unchanged."""
    name = "ORT_DISABLE_TELEMETRY"  # ONNX Runtime reads this variable while it is imported
    was_set = name in os.environ
    os.environ.setdefault(name, "1")
    try:
        with needs("cpu", "learning from a teacher"):
            import onnxruntime
    finally:
        if not was_set:
            del os.environ[name]
    return onnxruntime
