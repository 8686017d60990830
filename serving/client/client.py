"""A typed client of the server: arrays and images in, arrays and labels out.

with Client("127.0.0.1:8001") as client:
    print(client.classify(Path("boot.png").read_bytes(), model="cnn").labels[0])
    logits = client.infer("lstm", {"image": pixels})["logits"]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import grpc
import numpy as np
import numpy.typing as npt
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import classifier_pb2, classifier_pb2_grpc, inference_pb2, inference_pb2_grpc, tensors
from serving.credentials import Credentials

T = TypeVar("T")
Array = npt.NDArray[Any]
DEFAULT_TIMEOUT = 10.0
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # the server says how large an answer may be
    # Whoever waits for a server that is about to start tries again soon, not after gRPC's one second and more.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class ClientError(Exception):
    """A call that failed. ``code`` is gRPC's status, the message the server's own or what to check."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


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


class Client:
    """One channel to one server. Thread-safe. Every method raises ClientError."""

    def __init__(
        self,
        address: str = "127.0.0.1:8001",
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
    ) -> None:
        """timeout: each call's deadline in seconds; it travels to the server, which does not compute what is late.

        credentials: for a server with TLS or tokens. Raises CredentialsError when its files cannot be read, as do calls
        once the token's file is gone.
        """
        self._address = address
        self._timeout = timeout
        self._credentials = credentials
        self._channel = credentials.channel(address, _CHANNEL_OPTIONS)
        self._inference = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._classifier = classifier_pb2_grpc.ClassifierStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def classify(
        self, image: bytes | npt.NDArray[np.uint8], model: str, *, version: str = "", top_k: int = 0
    ) -> Classification:
        """Classify one image: the bytes of a PNG, JPEG or WebP file, or grey pixels [height, width] of its size.

        top_k: how many labels at most; 0 gives three rivals, or a whole set.
        """
        if not isinstance(image, bytes | np.ndarray):
            raise TypeError(f"image is bytes or a numpy array, not {type(image).__name__}; of a path, read the bytes")
        if isinstance(image, np.ndarray) and (image.dtype != np.uint8 or image.ndim != 2):
            raise TypeError(f"pixels are uint8 [height, width], not {image.dtype} {list(image.shape)}")
        request = classifier_pb2.ClassifyRequest(model_name=model, model_version=version, top_k=top_k)
        if isinstance(image, bytes):
            request.encoded = image
        else:
            height, width = image.shape
            request.raw.CopyFrom(classifier_pb2.RawImage(height=height, width=width, pixels=image.tobytes()))
        response = self._call(self._classifier.Classify, request)
        timings = response.timings
        return Classification(
            model=response.model_name,
            version=response.model_version,
            labels=tuple(_label(score) for score in response.labels),
            preprocess_ms=timings.preprocess_ns / 1e6,
            queue_ms=timings.queue_ns / 1e6,
            compute_ms=timings.compute_ns / 1e6,
            batch_size=timings.batch_size,
            task="multi_label" if response.task == classifier_pb2.TASK_MULTI_LABEL else "single_label",
            path_probability=response.path_probability if response.HasField("path_probability") else None,
        )

    def infer(self, model: str, inputs: Mapping[str, Array], *, version: str = "") -> dict[str, Array]:
        """Every output of a model for these inputs, by name. An array's dtype decides the datatype that is sent."""
        request = inference_pb2.ModelInferRequest(
            model_name=model,
            model_version=version,
            inputs=[
                inference_pb2.ModelInferRequest.InferInputTensor(
                    name=name, datatype=tensors.datatype_of(array), shape=array.shape
                )
                for name, array in inputs.items()
            ],
            raw_input_contents=[tensors.to_raw(array) for array in inputs.values()],
        )
        response = self._call(self._inference.ModelInfer, request)
        return {
            output.name: tensors.from_raw(output.datatype, output.shape, raw)
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }

    def models(self) -> list[str]:
        """The names of the models that take requests."""
        index = self._call(self._inference.RepositoryIndex, inference_pb2.RepositoryIndexRequest(ready=True))
        return [model.name for model in index.models]

    def is_ready(self, model: str = "") -> bool:
        """Whether the server, or one model, serves. False while it loads; ClientError where nobody answers."""
        try:
            response = self._call(self._health.Check, health_pb2.HealthCheckRequest(service=model))
        except ClientError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:  # no such model, or not yet
                return False
            raise
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def wait_until_ready(self, seconds: float, model: str = "") -> None:
        """Return as soon as the server, or one model, serves. Raises ClientError when that takes over ``seconds``."""
        request = health_pb2.HealthCheckRequest(service=model)
        try:
            # Watch tells every change at once: no polling. wait_for_ready outlasts a server that has not started yet.
            metadata = self._credentials.metadata()
            for response in self._health.Watch(request, timeout=seconds, wait_for_ready=True, metadata=metadata):
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._explained(error) from error
        raise ClientError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"{model or 'the server'} at {self._address} was not ready within {seconds:g} s; its log says why",
        )

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Callable[..., T], request: object) -> T:
        try:
            return method(request, timeout=self._timeout, metadata=self._credentials.metadata())
        except grpc.RpcError as error:
            raise self._explained(error) from error

    def _explained(self, error: grpc.RpcError) -> ClientError:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and "connect" in details.lower():
            details = (
                f"no server answers at {self._address}; start one with 'hangtag serve', or name another with --server"
            )
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            details = f"no answer from {self._address} within {self._timeout:g} s"
        return ClientError(code, details or code.name)


def _label(score: classifier_pb2.LabelScore) -> Label:
    distance = score.distance if score.HasField("distance") else None
    return Label(score.label, score.probability, score.index, distance)
