"""Defines an operation for each call of a client. An operation builds the request, and reads the response.

``Client`` and ``AsyncClient`` differ only in how they send these calls.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message

from hangtag.protos import classifier_pb2, inference_pb2, methods, tensors
from hangtag.serving.client.classification import (
    Classification,
    Image,
    classify_request,
    compare_request,
    from_response,
    model_choice,
)
from hangtag.serving.client.outputs import Array, Outputs
from hangtag.serving.connection.errors import ClientError, InputError, reading, sending
from hangtag.serving.connection.method import Method

Answer = TypeVar("Answer")

_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_STATUS_BY_NAME = {code.name: code for code in grpc.StatusCode}
CLASSIFY = Method(methods.CLASSIFY, classifier_pb2.ClassifyResponse)
CLASSIFY_STREAM = Method(methods.CLASSIFY_STREAM, classifier_pb2.ClassifyStreamResponse)
COMPARE = Method(methods.COMPARE, classifier_pb2.CompareResponse)
INFER = Method(methods.MODEL_INFER, inference_pb2.ModelInferResponse)
INFER_STREAM = Method(methods.MODEL_STREAM_INFER, inference_pb2.ModelStreamInferResponse)
CONFIG = Method(methods.MODEL_CONFIG, inference_pb2.ModelConfigResponse)
STATISTICS = Method(methods.MODEL_STATISTICS, inference_pb2.ModelStatisticsResponse)
INDEX = Method(methods.REPOSITORY_INDEX, inference_pb2.RepositoryIndexResponse)
LOAD = Method(methods.MODEL_LOAD, inference_pb2.RepositoryModelLoadResponse)
UNLOAD = Method(methods.MODEL_UNLOAD, inference_pb2.RepositoryModelUnloadResponse)


@dataclass(frozen=True)
class Operation(Generic[Answer]):
    """One call: a method, its request, and how its response is read."""

    method: Method[Any]
    request: Message
    read: Callable[[Any], Answer]

    def answer(self, response: Any) -> Answer:
        """Read the response. Raises ClientError if the response does not follow the protocol."""
        with reading("the server"):
            return self.read(response)


def classify(image: Image, model: str, version: str, top_k: int) -> Operation[Classification]:
    """Return the call that classifies one image. Raises InputError if ``image`` is not an image."""
    return Operation(CLASSIFY, classify_request(image, model, version, top_k), from_response)


def compare(image: Image, models: Sequence[str], top_k: int) -> Operation[dict[str, Classification | ClientError]]:
    """Return the call that classifies an image with several models. Raises InputError if ``image`` is not an image."""

    def read(response: classifier_pb2.CompareResponse) -> dict[str, Classification | ClientError]:
        names = models or [outcome.model_name for outcome in response.outcomes]
        return dict(zip(names, map(classify_outcome, response.outcomes), strict=True))

    return Operation(COMPARE, compare_request(image, models, top_k), read)


def infer(model: str, inputs: Mapping[str, Array], version: str) -> Operation[Outputs]:
    """Return the call that runs a model on arrays. Raises the exceptions of ``infer_request``."""
    return Operation(INFER, infer_request(model, inputs, version), Outputs)


@sending()
def parameters(model: str, version: str) -> Operation[dict[str, str]]:
    """Return the call that reads the parameters of a model's configuration."""
    model, version = model_choice(model, version)
    return Operation(CONFIG, inference_pb2.ModelConfigRequest(name=model, version=version), _parameters)


def models() -> Operation[list[str]]:
    """Return the call that lists the models that accept requests."""
    return Operation(INDEX, inference_pb2.RepositoryIndexRequest(ready=True), _names)


def serving_versions(model: str) -> Operation[list[str]]:
    """Return the call that lists the versions of a model that accept requests."""

    def read(index: inference_pb2.RepositoryIndexResponse) -> list[str]:
        return [entry.version for entry in index.models if entry.name == model]

    return Operation(INDEX, inference_pb2.RepositoryIndexRequest(ready=True), read)


def statistics() -> Operation[list[inference_pb2.ModelStatistics]]:
    """Return the call that reads the statistics of each model version."""
    return Operation(STATISTICS, inference_pb2.ModelStatisticsRequest(), lambda response: list(response.model_stats))


@sending()
def load(model: str) -> Operation[None]:
    """Return the call that loads a model."""
    return Operation(LOAD, inference_pb2.RepositoryModelLoadRequest(model_name=model), lambda _: None)


@sending()
def unload(model: str) -> Operation[None]:
    """Return the call that unloads a model."""
    return Operation(UNLOAD, inference_pb2.RepositoryModelUnloadRequest(model_name=model), lambda _: None)


@sending()
def infer_request(model: str, inputs: Mapping[str, Array], version: str) -> inference_pb2.ModelInferRequest:
    """Build the request of ``infer``, or one request of a stream.

    Raises:
        InputError: an input is not an array, or the protocol cannot carry the array.
    """
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


def classify_outcome(response: Any) -> Classification | ClientError:
    """Read one response of a stream of images, or one model's part of a comparison.

    Args:
        response: a ClassifyStreamResponse or a ModelOutcome. Over HTTP, the response to a separate call, or the
            ClientError with which that call failed.
    """
    if isinstance(response, ClientError):
        return response
    if isinstance(response, classifier_pb2.ClassifyResponse):
        return from_response(response)
    if response.HasField("failure"):
        code = _STATUS.get(response.failure.code, grpc.StatusCode.UNKNOWN)
        return ClientError(code, response.failure.message)
    return from_response(response.answer)


def infer_outcome(response: Any) -> Outputs | ClientError:
    """Read one response of a stream of inferences. Returns a ClientError if the response does not follow the protocol.

    Args:
        response: ModelStreamInferResponse; over HTTP, the response to a separate call, or the ClientError of that call.
    """
    if isinstance(response, ClientError):
        return response
    if isinstance(response, inference_pb2.ModelInferResponse):
        return _outputs(response)
    if response.error_message:
        # hangtag's server also sends the status; the protocol itself has only the message.
        status = response.infer_response.parameters["status"].string_param
        return ClientError(_STATUS_BY_NAME.get(status, grpc.StatusCode.UNKNOWN), response.error_message)
    return _outputs(response.infer_response)


def _outputs(response: inference_pb2.ModelInferResponse) -> Outputs | ClientError:
    try:
        with reading("the server"):
            return Outputs(response)
    except ClientError as error:
        return error


def _parameters(response: inference_pb2.ModelConfigResponse) -> dict[str, str]:
    return {name: parameter.string_value for name, parameter in response.config.parameters.items()}


def _names(index: inference_pb2.RepositoryIndexResponse) -> list[str]:
    return list(dict.fromkeys(model.name for model in index.models))
