"""Build the requests of the service hangtag.v1.Classifier, and read its responses into dataclasses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import numpy as np
import numpy.typing as npt

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.connection.errors import ClientError, InputError, sending

Image: TypeAlias = bytes | npt.NDArray[np.uint8]
"""The bytes of a PNG, JPEG or WebP file, or pixels of the model's input size: grey [height, width], or red, green
and blue [height, width, 3]."""
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Label:
    """One label of a classification.

    Attributes:
        name: the label's name, such as "Ankle boot".
        probability: the label's probability, from 0 to 1.
        index: the label's index in the model's output.
        distance: the distance from the classification's first label, from 0 (the same label) to 1 (the two labels that
            are farthest apart); None for a model without label distances.
    """

    name: str
    probability: float
    index: int
    distance: float | None = None


@dataclass(frozen=True)
class InferenceStage:
    """What one member of a route computed for a request.

    Attributes:
        model: the member's name, or NAME@VERSION if the route names a version.
        samples: how many samples of the request the member computed; 1 for an image.
        queue_ms: milliseconds in the member's queue.
        compute_ms: milliseconds of inference.
        batch_size: samples in the batch that the member computed, including samples of other requests.
    """

    model: str
    samples: int
    queue_ms: float
    compute_ms: float
    batch_size: int


@dataclass(frozen=True)
class Classification:
    """A model's labels for one image, with the server's timings.

    Attributes:
        model: the name of the model, or of the route.
        version: the version of the model or route.
        labels: for the task ``single_label``, the candidates, most probable first. For ``multi_label``, the predicted
            set, which may be empty. The set is in the order of prediction if the model predicts one label after
            another; otherwise the most probable label comes first.
        preprocess_ms: milliseconds that the server spent on decoding and resizing the image.
        queue_ms: milliseconds in the server's queues.
        compute_ms: milliseconds of inference.
        batch_size: images in the batch that included this image; for a route, in the batch of its first stage.
        task: ``single_label`` or ``multi_label``.
        path_probability: the probability of the whole set; None if the model does not give this probability.
        stages: for a route, what each member computed, in order; empty for a model.
        unsure: True if a cascade returned the answer of a model that was not sure, because the next model could not
            answer in time.
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
    stages: tuple[InferenceStage, ...] = ()
    unsure: bool = False

    @property
    def answered_by(self) -> str:
        """The name of the model that answered; for a route, the name of the last member that ran."""
        return self.stages[-1].model if self.stages else self.model


@sending()
def classify_request(image: Image, model: str, version: str, top_k: int) -> pb.ClassifyRequest:
    """Build the request that classifies one image. Raises InputError."""
    name, version = model_choice(model, version)
    request = pb.ClassifyRequest(model_name=name, model_version=version, top_k=top_k)
    _set_image(request, image)
    return request


@sending()
def compare_request(image: Image, models: Sequence[str], top_k: int) -> pb.CompareRequest:
    """Build the request that classifies one image with several models. Raises InputError."""
    choices = [dict(zip(("name", "version"), split_version(model), strict=True)) for model in models]
    request = pb.CompareRequest(models=choices, top_k=top_k)
    _set_image(request, image)
    return request


def split_version(model: str) -> tuple[str, str]:
    """Split NAME@VERSION; the version of a plain NAME is ""."""
    name, _, version = model.partition("@")
    return name, version


def model_choice(model: str, version: str) -> tuple[str, str]:
    """Return the name and the version of ``model``. If ``version`` is given, ``model`` is only a name."""
    return (model, version) if version else split_version(model)


def from_response(response: pb.ClassifyResponse) -> Classification:
    """Read a classification from the server's response."""
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
        stages=tuple(
            InferenceStage(stage.model, 1, stage.queue_ns / 1e6, stage.compute_ns / 1e6, stage.batch_size)
            for stage in timings.stages
        ),
        unsure=response.unsure,
    )


def outcome(response: Any) -> Classification | ClientError:
    """Read one response of a stream of images (over HTTP: the response to a separate call, or its ClientError), or the
    outcome of one model in a comparison."""
    if isinstance(response, ClientError):
        return response
    if isinstance(response, pb.ClassifyResponse):
        return from_response(response)
    if response.HasField("failure"):
        code = _STATUS.get(response.failure.code, grpc.StatusCode.UNKNOWN)
        return ClientError(code, response.failure.message)
    return from_response(response.answer)


def _label(score: pb.LabelScore) -> Label:
    distance = score.distance if score.HasField("distance") else None
    return Label(score.label, score.probability, score.index, distance)


def _set_image(request: pb.ClassifyRequest | pb.CompareRequest, image: Image) -> None:
    if not isinstance(image, bytes | np.ndarray):
        raise InputError(
            f"image must be bytes or a numpy array, not {type(image).__name__}; for a path, pass path.read_bytes()"
        )
    if isinstance(image, bytes):
        request.encoded = image
        return
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise InputError(
            "pixels must be uint8 [height, width], or [height, width, 3] for a model with colour input, not "
            f"{image.dtype} {list(image.shape)}"
        )
    height, width = image.shape[:2]
    request.raw.CopyFrom(pb.RawImage(height=height, width=width, pixels=image.tobytes()))
