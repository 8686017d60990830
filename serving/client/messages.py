"""Build the requests of calls, and read their responses into dataclasses and arrays.

The functions that build a request raise InputError if an argument cannot be sent.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import numpy as np
import numpy.typing as npt

from hangtag.protos import classifier_pb2 as pb
from hangtag.protos import inference_pb2, tensors
from hangtag.serving.connection.errors import ClientError, InputError, reading, sending

Array: TypeAlias = npt.NDArray[Any]
Image: TypeAlias = bytes | npt.NDArray[np.uint8]
"""The bytes of a PNG, JPEG or WebP file, or pixels of the model's input size: grey [height, width], or red, green
and blue [height, width, 3]."""
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_STAGE = re.compile(r"(.+?);samples=(\d+);queue-ns=(\d+);compute-ns=(\d+);batch-size=(\d+)(?:,|$)")


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
            set, which may be empty. If the model predicts one label after another, the set is in this order;
            otherwise the most probable label comes first.
        preprocess_ms: milliseconds that the server spent on decoding and resizing the image.
        queue_ms: milliseconds in the server's queues.
        compute_ms: milliseconds of inference.
        batch_size: images in the batch that included this image; for a route, in the batch of its first stage.
        task: ``single_label`` or ``multi_label``.
        path_probability: the probability of the whole set; None if the model does not give this probability.
        stages: for a route, what each member computed, in order; empty for a model.
        unsure: True if the cascade's next model had no time or no room in its queue, so that this answer comes from a
            model that was not sure.
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


class Outputs(dict[str, Array]):
    """Maps the name of each output to its array. The attributes contain what the server reported about the answer.

    Attributes:
        model: the name of the model or route, as given in the server's answer.
        version: the version of the model or route.
        answered_by: the models that answered; for a route, the members that answered at least one sample.
        sample_stages: for a route, the number (from 1) of the stage that answered each sample, or only one number if
            the same stage answered all samples. The tuple is empty for a model, and if different stages answered more
            than 1,024 samples.
        stages: for a route, what each member computed, in order; empty for a model.
        unsure: the number of samples with the answer of a model that was not sure, because the cascade's next model had
            no time or no room in its queue.
        queue_ms: milliseconds in the server's queues; None in a stream over gRPC, and if the server is not hangtag's.
        compute_ms: milliseconds of inference; None if ``queue_ms`` is None.
        batch_size: samples in the batch that was computed; for a route, in the batch of its first stage. The size is
            None if ``queue_ms`` is None.

    Example:
        >>> outputs = client.infer("fast-and-accurate", {"image": np.zeros((2, 28, 28), np.uint8)})
        >>> outputs.model, outputs["logits"].shape
        ('fast-and-accurate', (2, 10))
        >>> set(outputs.answered_by) <= {"lstm", "cnn"}
        True
    """

    def __init__(self, response: inference_pb2.ModelInferResponse) -> None:
        """Read a response and its parameters. Raises ValueError if the response does not follow the protocol."""
        super().__init__(
            (output.name, tensors.output(response, index)) for index, output in enumerate(response.outputs)
        )
        values = {key: value.string_param for key, value in response.parameters.items()}
        self.model = response.model_name
        self.version = response.model_version
        self.answered_by: tuple[str, ...] = tuple(values.get("hangtag_model", self.model).split(","))
        numbers = values.get("hangtag_stage", "").split(",")
        self.sample_stages: tuple[int, ...] = tuple(int(number) for number in numbers if number.isdigit())
        self.stages: tuple[InferenceStage, ...] = tuple(
            InferenceStage(model, int(samples), int(queue_ns) / 1e6, int(compute_ns) / 1e6, int(batch_size))
            for model, samples, queue_ns, compute_ns, batch_size in _STAGE.findall(values.get("hangtag_stages", ""))
        )
        self.unsure = int(values.get("hangtag_unsure", 0))
        costs = (values.get(f"hangtag_{name}") for name in ("queue_ns", "compute_ns", "batch_size"))
        queue_ns, compute_ns, self.batch_size = (None if value is None else int(value) for value in costs)
        self.queue_ms = None if queue_ns is None else queue_ns / 1e6
        self.compute_ms = None if compute_ns is None else compute_ns / 1e6


@sending()
def classify_request(image: Image, model: str, version: str, top_k: int) -> pb.ClassifyRequest:
    name, version = model_choice(model, version)
    request = pb.ClassifyRequest(model_name=name, model_version=version, top_k=top_k)
    _set_image(request, image)
    return request


@sending()
def compare_request(image: Image, models: Sequence[str], top_k: int) -> pb.CompareRequest:
    choices = [model_choice(model, "") for model in models]
    request = pb.CompareRequest(models=[{"name": name, "version": version} for name, version in choices], top_k=top_k)
    _set_image(request, image)
    return request


def model_choice(model: str, version: str) -> tuple[str, str]:
    """Return a name and a version. Without ``version``, ``model`` is NAME or NAME@VERSION."""
    if not version:
        model, _, version = model.partition("@")
    return model, version


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


@sending()
def infer_request(model: str, inputs: Mapping[str, Array], version: str) -> inference_pb2.ModelInferRequest:
    model, version = model_choice(model, version)
    request = inference_pb2.ModelInferRequest(model_name=model, model_version=version)
    for name, array in inputs.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"input {name!r} must be a numpy array with the input's dtype, not {type(array).__name__}")
        try:
            datatype, raw = tensors.datatype_of(array), tensors.to_raw(array)
        except ValueError as error:
            raise InputError(f"input {name!r} cannot be sent: {error}") from error
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(raw)
    return request


def classification_of(response: pb.ClassifyResponse) -> Classification:
    timings = response.timings
    return Classification(
        model=response.model_name,
        version=response.model_version,
        labels=tuple(
            Label(label.label, label.probability, label.index, label.distance if label.HasField("distance") else None)
            for label in response.labels
        ),
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


def classify_outcome(response: Any) -> Classification | ClientError:
    """Read the outcome of one model in a comparison, or one response of a stream of images. Over HTTP, such a response
    is a ClassifyResponse or a ClientError."""
    if isinstance(response, ClientError):
        return response
    if isinstance(response, pb.ClassifyResponse):
        return classification_of(response)
    if response.HasField("failure"):
        code = _STATUS.get(response.failure.code, grpc.StatusCode.UNKNOWN)
        return ClientError(code, response.failure.message)
    return classification_of(response.answer)


def infer_outcome(response: Any) -> Outputs | ClientError:
    """Read one response of a stream of inferences (over HTTP: a ModelInferResponse or a ClientError)."""
    if isinstance(response, ClientError):
        return response
    if isinstance(response, inference_pb2.ModelStreamInferResponse):
        if response.error_message:
            # hangtag's server also sends the status; the protocol itself has only the message.
            status = response.infer_response.parameters["status"].string_param
            code = grpc.StatusCode.__members__.get(status, grpc.StatusCode.UNKNOWN)
            return ClientError(code, response.error_message)
        response = response.infer_response
    try:
        with reading("the server"):
            return Outputs(response)
    except ClientError as error:
        return error
