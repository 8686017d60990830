"""What a model makes of an image, and the messages that ask for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hangtag.protos import classifier_pb2 as pb

Image: TypeAlias = bytes | npt.NDArray[np.uint8]
"""The bytes of a PNG, JPEG or WebP file, or grey pixels [height, width] of the model's own size."""


@dataclass(frozen=True)
class Label:
    """One label of an answer; probability in [0, 1], index its place among the model's outputs.

    distance: how far it lies from the answer's first label, 0 the same and 1 as far as it gets; None where the model
    does not say.
    """

    name: str
    probability: float
    index: int
    distance: float | None = None


@dataclass(frozen=True)
class Classification:
    """What a model makes of an image; the times are the server's own, in milliseconds.

    task ``single_label``: the labels are rivals, most probable first. ``multi_label``: they are a set, which may be
    empty, in the order in which the model predicted them where it does so one after another, else most probable first;
    path_probability is that of the whole set, None where the model does not say.
    """

    model: str
    version: str
    labels: tuple[Label, ...]
    preprocess_ms: float
    queue_ms: float
    compute_ms: float
    batch_size: int
    task: str = "single_label"
    path_probability: float | None = None


def classify_request(image: Image, model: str, version: str, top_k: int) -> pb.ClassifyRequest:
    """Raises TypeError for what is no image."""
    request = pb.ClassifyRequest(model_name=model, model_version=version, top_k=top_k)
    _put(image, request)
    return request


def compare_request(image: Image, models: Sequence[str], top_k: int) -> pb.CompareRequest:
    """Raises TypeError for what is no image."""
    request = pb.CompareRequest(models=[pb.ModelChoice(name=model) for model in models], top_k=top_k)
    _put(image, request)
    return request


def read(response: pb.ClassifyResponse) -> Classification:
    timings = response.timings
    return Classification(
        model=response.model_name,
        version=response.model_version,
        labels=tuple(_label(score) for score in response.labels),
        preprocess_ms=timings.preprocess_ns / 1e6,
        queue_ms=timings.queue_ns / 1e6,
        compute_ms=timings.compute_ns / 1e6,
        batch_size=timings.batch_size,
        task="multi_label" if response.task == pb.TASK_MULTI_LABEL else "single_label",
        path_probability=response.path_probability if response.HasField("path_probability") else None,
    )


def _label(score: pb.LabelScore) -> Label:
    distance = score.distance if score.HasField("distance") else None
    return Label(score.label, score.probability, score.index, distance)


def _put(image: Image, request: pb.ClassifyRequest | pb.CompareRequest) -> None:
    if not isinstance(image, bytes | np.ndarray):
        raise TypeError(f"image is bytes or a numpy array, not {type(image).__name__}; of a path, read the bytes")
    if isinstance(image, bytes):
        request.encoded = image
        return
    if image.dtype != np.uint8 or image.ndim != 2:
        raise TypeError(f"pixels are uint8 [height, width], not {image.dtype} {list(image.shape)}")
    height, width = image.shape
    request.raw.CopyFrom(pb.RawImage(height=height, width=width, pixels=image.tobytes()))
