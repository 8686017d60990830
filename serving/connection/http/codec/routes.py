"""The HTTP request of each gRPC method, and how its answer is read as the method's response."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from grpc_health.v1 import health_pb2

from hangtag.protos import inference_pb2
from hangtag.serving.connection.http.codec import classification, inference
from hangtag.serving.connection.http.codec.inference import model_path
from hangtag.serving.connection.http.codec.wire import HttpAnswer, HttpRequest, path_to, post_json

_INFERENCE, _CLASSIFIER = "/inference.GRPCInferenceService/", "/hangtag.v1.Classifier/"
INFER, INFER_STREAM = _INFERENCE + "ModelInfer", _INFERENCE + "ModelStreamInfer"
CLASSIFY, CLASSIFY_STREAM = _CLASSIFIER + "Classify", _CLASSIFIER + "ClassifyStream"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


def _only_200(answer: HttpAnswer, _request: Any) -> bool:
    return answer.status == 200


@dataclass(frozen=True)
class Route:
    """How one method travels.

    Attributes:
        encode: from the request, and the microseconds until the deadline, to the HTTP request.
        decode: from the answer, and the request, to the response. Raises any exception where the answer is not of the
            protocol.
        answers: whether an answer is one that ``decode`` reads; any other is a failure of the call.
    """

    encode: Callable[[Any, int | None], HttpRequest]
    decode: Callable[[HttpAnswer, Any], Any]
    answers: Callable[[HttpAnswer, Any], bool] = _only_200


def _index_request(message: inference_pb2.RepositoryIndexRequest, _timeout: int | None) -> HttpRequest:
    return post_json(path_to("v2", "repository", "index"), {"ready": message.ready})


def _config_request(message: inference_pb2.ModelConfigRequest, _timeout: int | None) -> HttpRequest:
    return HttpRequest("GET", model_path(message.name, message.version, "config"))


def _statistics_request(message: inference_pb2.ModelStatisticsRequest, _timeout: int | None) -> HttpRequest:
    return HttpRequest("GET", model_path(message.name, message.version, "stats") if message.name else "v2/models/stats")


def _server_request(_message: inference_pb2.ServerMetadataRequest, _timeout: int | None) -> HttpRequest:
    return HttpRequest("GET", "v2")


def _metadata_request(message: inference_pb2.ModelMetadataRequest, _timeout: int | None) -> HttpRequest:
    return HttpRequest("GET", model_path(message.name, message.version))


def _repository_request(action: str) -> Callable[[Any, int | None], HttpRequest]:
    def encode(message: Any, _timeout: int | None) -> HttpRequest:
        return post_json(path_to("v2", "repository", "models", message.model_name, action), {})

    return encode


def _parsed(response: type[Any], field: str = "") -> Callable[[HttpAnswer, Any], Any]:
    """Read JSON with the field names of the .proto files; as one field of the response, where one is named."""

    def decode(answer: HttpAnswer, _request: Any) -> Any:
        value = {field: answer.json()} if field else answer.json()
        return json_format.ParseDict(value, response(), ignore_unknown_fields=True)

    return decode


def _health_request(message: health_pb2.HealthCheckRequest, _timeout: int | None) -> HttpRequest:
    if not message.service:
        return HttpRequest("GET", path_to("v2", "health", "ready"))
    return HttpRequest("GET", model_path(message.service, "", "ready"))


def _health_response(answer: HttpAnswer, _request: Any) -> health_pb2.HealthCheckResponse:
    status = health_pb2.HealthCheckResponse.NOT_SERVING
    if answer.status == 404:
        status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    elif answer.status == 200 and _says_ready(answer):
        status = health_pb2.HealthCheckResponse.SERVING
    return health_pb2.HealthCheckResponse(status=status)


def _says_ready(answer: HttpAnswer) -> bool:
    try:
        return bool(answer.json().get("ready", True))
    except (ValueError, AttributeError):  # Triton's answer is empty
        return True


def _is_health(answer: HttpAnswer, request: health_pb2.HealthCheckRequest) -> bool:
    """Triton refuses with 400, hangtag with 503; an unknown model with 404."""
    return answer.status in (200, 400, 503) or bool(answer.status == 404 and request.service)


def _ready_request(message: inference_pb2.ModelReadyRequest, _timeout: int | None) -> HttpRequest:
    return HttpRequest("GET", model_path(message.name, message.version, "ready"))


def _ready_response(answer: HttpAnswer, _request: Any) -> inference_pb2.ModelReadyResponse:
    return inference_pb2.ModelReadyResponse(ready=answer.status == 200 and _says_ready(answer))


def _is_model_readiness(answer: HttpAnswer, _request: Any) -> bool:
    return answer.status in (200, 400, 503)


ROUTES = {
    CLASSIFY: Route(classification.classify_request, classification.classify_response),
    _CLASSIFIER + "Compare": Route(
        classification.compare_request,
        classification.compare_response,
        lambda answer, request: answer.status == 200 or classification.is_outcome(answer, request),
    ),
    INFER: Route(inference.infer_request, inference.infer_response),
    _INFERENCE + "ServerMetadata": Route(_server_request, _parsed(inference_pb2.ServerMetadataResponse)),
    _INFERENCE + "ModelMetadata": Route(_metadata_request, _parsed(inference_pb2.ModelMetadataResponse)),
    _INFERENCE + "ModelReady": Route(_ready_request, _ready_response, _is_model_readiness),
    _INFERENCE + "ModelConfig": Route(_config_request, _parsed(inference_pb2.ModelConfigResponse, "config")),
    _INFERENCE + "ModelStatistics": Route(_statistics_request, _parsed(inference_pb2.ModelStatisticsResponse)),
    _INFERENCE + "RepositoryIndex": Route(_index_request, _parsed(inference_pb2.RepositoryIndexResponse, "models")),
    _INFERENCE + "RepositoryModelLoad": Route(
        _repository_request("load"), lambda *_: inference_pb2.RepositoryModelLoadResponse()
    ),
    _INFERENCE + "RepositoryModelUnload": Route(
        _repository_request("unload"), lambda *_: inference_pb2.RepositoryModelUnloadResponse()
    ),
    CHECK: Route(_health_request, _health_response, _is_health),
}
"""By the method's full name."""
