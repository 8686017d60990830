"""A teacher that is an exported ONNX file. The only module of training that uses ONNX Runtime."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.dataset import Images
from hangtag.training.errors import TeacherError
from hangtag.training.runs.config import TeacherFile

Logits = npt.NDArray[np.float32]
_TELEMETRY = "ORT_DISABLE_TELEMETRY"
TEACHERS = Path("runs", "teachers")
"""The model repository of teachers, which are not served."""


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
        """
        try:
            onnxruntime = _import_onnxruntime()
        except ModuleNotFoundError as error:
            raise TeacherError(
                "learning from a teacher needs the Python module 'onnxruntime', which is not installed here. "
                "In the project's folder, install it with: pip install '.[cpu]'"
            ) from error
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
        self._labels, self._image = labels, image
        self._require_images_and_logits()
        self._require_labels()

    def __call__(self, images: Images) -> Logits:
        """Raises TeacherError if the model fails on the images, or its logits have another shape or are not finite."""
        try:
            logits: Logits = self._session.run(["logits"], {"image": np.ascontiguousarray(images)})[0]
        except Exception as error:  # as above
            raise TeacherError(f"the teacher {self.file.path} fails on the images ({_reason(error)}).") from error
        if logits.shape != (len(images), len(self._labels)):
            raise TeacherError(
                f"the teacher {self.file.path} gave logits of the shape {list(logits.shape)} for {len(images)} "
                f"images; it must be {[len(images), len(self._labels)]}."
            )
        if broken := int((~np.isfinite(logits).all(axis=1)).sum()):
            raise TeacherError(
                f"the teacher {self.file.path} gave logits that are not finite for {broken} of {len(images)} images: "
                "its training or its conversion went wrong. Choose another."
            )
        return logits

    def _require_images_and_logits(self) -> None:
        inputs = {tensor.name: (tensor.type, list(tensor.shape[1:])) for tensor in self._session.get_inputs()}
        outputs = {tensor.name: list(tensor.shape[1:]) for tensor in self._session.get_outputs()}
        expected = {"image": ("tensor(uint8)", list(self._image.shape))}
        if inputs != expected or outputs.get("logits") != [len(self._labels)]:
            shape = ", ".join(map(str, ("batch", *self._image.shape)))
            raise TeacherError(
                f"the teacher {self.file.path} must have the input image: UINT8 [{shape}] and the output "
                f"logits: FP32 [batch, {len(self._labels)}], but its inputs are {inputs} and its outputs {outputs}."
            )
        fixed = self._session.get_inputs()[0].shape[0]
        if isinstance(fixed, int):
            raise TeacherError(
                f"the teacher {self.file.path} takes only batches of {fixed}; it must take any number of images, like "
                "the models that 'hangtag export' publishes."
            )

    def _require_labels(self) -> None:
        """A file without labels in its metadata is accepted: its number of logits was checked."""
        metadata = self._session.get_modelmeta().custom_metadata_map.get("hangtag.labels")
        labels = self._labels if metadata is None else _tuple(metadata)
        if labels != self._labels:
            raise TeacherError(
                f"the teacher {self.file.path} has the labels {', '.join(map(str, labels)) or 'none'}; it must have "
                f"{', '.join(self._labels)}, in this order."
            )


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
        import onnxruntime
    finally:
        if before is None:
            del os.environ[_TELEMETRY]
    return onnxruntime


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
