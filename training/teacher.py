"""Trained models that others learn from: any ONNX files of ours, as they would be served."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.config import TeacherFile
from training.data import Images
from training.errors import TeacherError

_BATCH = 500
HOW_TO_GET_ONE = (
    "Name an exported model with --teacher FILE.onnx, or make one: hangtag train cnn --recipe teacher, "
    "then hangtag export cnn."
)


class OnnxTeacher:
    """Logits [n, 10] of uint8 images [n, 28, 28], by ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        """Raises TeacherError for a file that is missing, broken, or no classifier of 28x28 images."""
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it while it is imported
        import onnxruntime  # distillation alone needs it

        try:
            contents = path.read_bytes()
        except OSError as error:
            raise TeacherError(f"the teacher {path} cannot be read ({error.strerror}). {HOW_TO_GET_ONE}") from error
        try:
            self._session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class of ONNX Runtime's own for each kind of trouble
            reason = " ".join(str(error).split())[:200]
            raise TeacherError(f"the teacher {path} is no model that can be loaded ({reason}).") from error
        self.file = TeacherFile(hashlib.sha256(contents).hexdigest()[:12], str(path))
        inputs = {tensor.name: (tensor.type, list(tensor.shape[1:])) for tensor in self._session.get_inputs()}
        outputs = {tensor.name: list(tensor.shape[1:]) for tensor in self._session.get_outputs()}
        if inputs != {"image": ("tensor(uint8)", [28, 28])} or outputs.get("logits") != [10]:
            raise TeacherError(
                f"the teacher {path} must read image: UINT8 [batch, 28, 28] and give logits: FP32 [batch, 10], but it "
                f"reads {inputs} and gives {outputs}."
            )

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        return np.concatenate([self._session.run(["logits"], {"image": part})[0] for part in _batches(images)])


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

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = np.mean([teacher(images) for teacher in self._teachers], axis=0)
        return logits


def _batches(images: Images) -> Iterator[Images]:
    for start in range(0, len(images), _BATCH):
        yield np.ascontiguousarray(images[start : start + _BATCH])


def latest(model: str, models: Path) -> Path:
    """The file of a model's latest version in a model repository. Raises TeacherError where there is none."""
    versions = [folder for folder in (models / model).glob("*/model.onnx") if folder.parent.name.isdecimal()]
    if not versions:
        raise TeacherError(f"no {model} under {models} to learn from. {HOW_TO_GET_ONE}")
    return max(versions, key=lambda path: int(path.parent.name))
