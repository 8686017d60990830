"""A typed client of the server: arrays and images in, arrays and labels out.

with Client("127.0.0.1:8001") as client:
    print(client.classify(Path("boot.png").read_bytes(), model="cnn").labels[0])
    logits = client.infer("lstm", {"image": pixels})["logits"]
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
import numpy.typing as npt
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import classifier_pb2, classifier_pb2_grpc, inference_pb2, inference_pb2_grpc, tensors
from serving.client.classification import Classification, Image, classify_request, compare_request, read
from serving.credentials import Credentials

T = TypeVar("T")
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
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

    def classify(self, image: Image, model: str, *, version: str = "", top_k: int = 0) -> Classification:
        """Classify one image: the bytes of a PNG, JPEG or WebP file, or grey pixels [height, width] of its size.

        top_k: how many labels at most; 0 gives three rivals, or a whole set.
        """
        return read(self._call(self._classifier.Classify, classify_request(image, model, version, top_k)))

    def classify_stream(
        self,
        images: Iterable[Image],
        model: str,
        *,
        version: str = "",
        top_k: int = 0,
        timeout: float | None = None,
    ) -> Iterator[Classification | ClientError]:
        """Classify one image after another over one stream: an answer, or an error in its place, for each, in order.

        Images are taken as the server takes them, and are computed together where they can be. timeout: of the whole
        stream, in seconds. Raises ClientError when the stream ends early, and what ``images`` raises.
        """
        requests = (classify_request(image, model, version, top_k) for image in images)
        for response in self._converse(self._classifier.ClassifyStream, requests, timeout):
            yield _outcome(response)

    def compare(
        self, image: Image, models: Sequence[str] = (), *, top_k: int = 0
    ) -> dict[str, Classification | ClientError]:
        """What several models make of one image, by model, in their order: the answer, or why there is none.

        Without names every served model that classifies pictures is asked.
        """
        response = self._call(self._classifier.Compare, compare_request(image, models, top_k))
        return {outcome.model_name: _outcome(outcome) for outcome in response.outcomes}

    def infer(self, model: str, inputs: Mapping[str, Array], *, version: str = "") -> dict[str, Array]:
        """Every output of a model for these inputs, by name. An array's dtype decides the datatype that is sent."""
        return _arrays(self._call(self._inference.ModelInfer, _infer_request(model, version, inputs)))

    def infer_stream(
        self, model: str, requests: Iterable[Mapping[str, Array]], *, version: str = "", timeout: float | None = None
    ) -> Iterator[dict[str, Array] | ClientError]:
        """The same for one request after another over one stream; see classify_stream."""
        sent = (_infer_request(model, version, inputs) for inputs in requests)
        for response in self._converse(self._inference.ModelStreamInfer, sent, timeout):
            if response.error_message:
                status = response.infer_response.parameters["status"].string_param
                yield ClientError(grpc.StatusCode[status], response.error_message)
            else:
                yield _arrays(response.infer_response)

    def parameters(self, model: str, *, version: str = "") -> dict[str, str]:
        """What a model's file says about itself, and where it runs, as its configuration has it: names and texts."""
        request = inference_pb2.ModelConfigRequest(name=model, version=version)
        config = self._call(self._inference.ModelConfig, request).config
        return {name: parameter.string_value for name, parameter in config.parameters.items()}

    def models(self) -> list[str]:
        """The names of the models that take requests."""
        index = self._call(self._inference.RepositoryIndex, inference_pb2.RepositoryIndexRequest(ready=True))
        return [model.name for model in index.models]

    def statistics(self) -> list[inference_pb2.ModelStatistics]:
        """What each version of each model did since it was loaded, in the protocol's own words."""
        response = self._call(self._inference.ModelStatistics, inference_pb2.ModelStatisticsRequest())
        return list(response.model_stats)

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

    def _converse(self, method: Callable[..., Any], requests: Iterable[object], timeout: float | None) -> Iterator[Any]:
        """A stream's responses. What ``requests`` raises is raised here, after the answers to those before it."""
        failures: list[Exception] = []

        def outgoing() -> Iterator[object]:
            try:
                yield from requests
            except Exception as error:  # else gRPC would log it, and cancel what is on its way
                failures.append(error)

        call = method(outgoing(), timeout=timeout, metadata=self._credentials.metadata())
        try:
            yield from call
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                late = f"the stream to {self._address} was not answered to its end within {timeout:g} s"
                raise ClientError(error.code(), late) from error
            raise self._explained(error) from error
        finally:
            call.cancel()  # where nobody wants the rest
        if failures:
            raise failures[0]

    def _explained(self, error: grpc.RpcError) -> ClientError:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and "handshake failed" in details:
            details = (
                f"no TLS with {self._address}; is --tls-ca its authority, and does it serve TLS? {_reason(details)}"
            )
        elif code is grpc.StatusCode.UNAVAILABLE and "Socket closed" in details:
            details = (
                f"the server at {self._address} closed the connection; "
                "does it want TLS (--tls-ca), or a client certificate (--tls-cert, --tls-key)?"
            )
        elif code is grpc.StatusCode.UNAVAILABLE and "connect" in details.lower():
            details = (
                f"no server answers at {self._address}; start one with 'hangtag serve', or name another with --server"
            )
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            details = f"no answer from {self._address} within {self._timeout:g} s"
        return ClientError(code, details or code.name)


def _reason(details: str) -> str:
    """OpenSSL's word for what went wrong, out of gRPC's sentence."""
    found = re.search(r"OPENSSL_internal:(\w+)", details)
    return f"({found[1].replace('_', ' ').lower()})" if found else f"({details})"


def _outcome(
    response: classifier_pb2.ClassifyStreamResponse | classifier_pb2.ModelOutcome,
) -> Classification | ClientError:
    if response.HasField("failure"):
        return ClientError(_STATUS[response.failure.code], response.failure.message)
    return read(response.answer)


def _infer_request(model: str, version: str, inputs: Mapping[str, Array]) -> inference_pb2.ModelInferRequest:
    return inference_pb2.ModelInferRequest(
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


def _arrays(response: inference_pb2.ModelInferResponse) -> dict[str, Array]:
    return {
        output.name: tensors.from_raw(output.datatype, output.shape, raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
