"""Builds the HTTP request for each gRPC method, and reads the answer as the method's response. This module does no I/O.

ModelInfer is sent as JSON that describes the tensors, followed by the bytes of the tensors (the binary tensor
extension). Classify and Compare are sent as POST /v1/classify. The image is the request's body, and the answer is JSON.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import json_format
from grpc_health.v1 import health_pb2

from hangtag.protos import classifier_pb2, inference_pb2, methods, tensors
from hangtag.serving.connection.http.wire import (
    HttpAnswer,
    HttpRequest,
    error_text,
    path_to,
    post_json,
    status_code,
)

HEAD_LENGTH = "inference-header-content-length"
"""The header that contains the length of the JSON in bytes."""
BINARY_SIZE = "binary_data_size"


def model_path(model: str, version: str, *more: str) -> str:
    """Return the path of a model, or of one of its versions; ``more`` continues the path."""
    return path_to("v2", "models", model, *(("versions", version) if version else ()), *more)


def infer_request(message: inference_pb2.ModelInferRequest, timeout: int | None) -> HttpRequest:
    """Return the HTTP request for a ModelInfer message with raw contents.

    Args:
        message: the request in the form that gRPC sends.
        timeout: microseconds until the deadline; None for no deadline.
    """
    parameters: dict[str, Any] = {"binary_data_output": True}
    if timeout is not None:
        parameters["timeout"] = timeout
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {BINARY_SIZE: len(raw)},
        }
        for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": parameters}, separators=(",", ":")).encode()
    return HttpRequest(
        "POST",
        model_path(message.model_name, message.model_version, "infer"),
        b"".join((head, *message.raw_input_contents)),
        {"content-type": "application/octet-stream", HEAD_LENGTH: str(len(head))},
    )


def infer_response(answer: HttpAnswer, _request: object) -> inference_pb2.ModelInferResponse:
    """Read an answer as the message that a gRPC call would return.

    May raise any exception if the answer does not follow the protocol.
    """
    offset = int(answer.headers.get(HEAD_LENGTH, len(answer.body)))
    if not 0 <= offset <= len(answer.body):
        raise ValueError(f"{HEAD_LENGTH} is {offset}, of {len(answer.body)} bytes")
    head = answer.json(offset)
    response = inference_pb2.ModelInferResponse(
        model_name=head["model_name"], model_version=head.get("model_version", "")
    )
    for output in head["outputs"]:
        name, datatype, shape = output["name"], output["datatype"], output["shape"]
        response.outputs.append(
            inference_pb2.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape)
        )
        size = output.get("parameters", {}).get(BINARY_SIZE)
        if size is None:  # a server may answer in JSON although the client requested binary data
            values = tensors.from_numbers(datatype, shape, output["data"], f"data of output {name!r}")
            response.raw_output_contents.append(tensors.to_raw(values))
        else:
            if not 0 <= size <= len(answer.body) - offset:
                raise ValueError(f"{BINARY_SIZE} of output {name!r} is {size}, of {len(answer.body) - offset} bytes")
            response.raw_output_contents.append(answer.body[offset : offset + size])
            offset += size
    return response


_OF_THE_CALL = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE)


def classify_request(message: classifier_pb2.ClassifyRequest, timeout: int | None) -> HttpRequest:
    """Return the request to classify an image with one model. ``timeout`` is in microseconds; None for no deadline."""
    model = classifier_pb2.ModelChoice(name=message.model_name, version=message.model_version)
    return _image_request(message, [model], timeout)


def classify_response(answer: HttpAnswer, _request: object) -> classifier_pb2.ClassifyResponse:
    """Read the answer of one model. Raises ValueError or ParseError if the answer does not follow the protocol."""
    return _classification(answer.json())


def compare_request(message: classifier_pb2.CompareRequest, timeout: int | None) -> HttpRequest:
    """Return the request to classify an image with several models, or with all models.

    ``timeout`` is in microseconds; None for no deadline.
    """
    return _image_request(message, message.models, timeout)


def compare_response(answer: HttpAnswer, request: classifier_pb2.CompareRequest) -> classifier_pb2.CompareResponse:
    """Read the answers of several models.

    If the request names only one model, the server sends the same answer or error as for Classify.
    """
    if len(request.models) != 1:
        return classifier_pb2.CompareResponse(outcomes=[_outcome(outcome) for outcome in answer.json()["outcomes"]])
    name = request.models[0].name
    if answer.status == 200:
        outcome = classifier_pb2.ModelOutcome(model_name=name, answer=_classification(answer.json()))
    else:
        failure = _failure(answer.status, error_text(answer))
        outcome = classifier_pb2.ModelOutcome(model_name=name, failure=failure)
    return classifier_pb2.CompareResponse(outcomes=[outcome])


def is_outcome(answer: HttpAnswer, request: classifier_pb2.CompareRequest) -> bool:
    """Return whether an error concerns the single model of a comparison, not the whole call."""
    only = len(request.models) == 1
    return only and bool(error_text(answer)) and status_code(answer.status) not in _OF_THE_CALL


def _image_request(
    message: classifier_pb2.ClassifyRequest | classifier_pb2.CompareRequest,
    models: Sequence[classifier_pb2.ModelChoice],
    timeout: int | None,
) -> HttpRequest:
    names = ",".join(f"{model.name}@{model.version}" if model.version else model.name for model in models)
    raw = message.raw if message.HasField("raw") else None
    path = path_to(
        *("v1", "classify", *([names] if names else ())),
        top_k=message.top_k or None,
        timeout=timeout,
        height=raw and raw.height,
        width=raw and raw.width,
    )
    body = message.encoded if raw is None else raw.pixels
    return HttpRequest("POST", path, body, {"content-type": "application/octet-stream"})


def _classification(value: Any) -> classifier_pb2.ClassifyResponse:
    return json_format.ParseDict(value, classifier_pb2.ClassifyResponse(), ignore_unknown_fields=True)


def _outcome(outcome: dict[str, Any]) -> classifier_pb2.ModelOutcome:
    name = outcome["model_name"]
    if "answer" in outcome:
        return classifier_pb2.ModelOutcome(model_name=name, answer=_classification(outcome["answer"]))
    return classifier_pb2.ModelOutcome(model_name=name, failure=_failure(outcome["status"], outcome["error"]))


def _failure(status: int, message: str) -> classifier_pb2.Failure:
    return classifier_pb2.Failure(code=status_code(status).value[0], message=message)


def _only_200(answer: HttpAnswer, _request: Any) -> bool:
    return answer.status == 200


@dataclass(frozen=True)
class Route:
    """How one method is called over HTTP.

    Attributes:
        encode: makes the HTTP request from the message and the microseconds until the deadline.
        decode: makes the response from the answer and the request. May raise any exception if the answer does not
            follow the protocol.
        answers: whether ``decode`` can read an answer; if not, the call failed.
    """

    encode: Callable[[Any, int | None], HttpRequest]
    decode: Callable[[HttpAnswer, Any], Any]
    answers: Callable[[HttpAnswer, Any], bool] = _only_200


def _of_model(*more: str) -> Callable[[Any, int | None], HttpRequest]:
    """Return a function that builds a GET request for a path below the requested model or model version."""
    return lambda message, _timeout: HttpRequest("GET", model_path(message.name, message.version, *more))


def _statistics_request(message: inference_pb2.ModelStatisticsRequest, _timeout: int | None) -> HttpRequest:
    return HttpRequest("GET", model_path(message.name, message.version, "stats") if message.name else "v2/models/stats")


def _change_request(action: str) -> Callable[[Any, int | None], HttpRequest]:
    return lambda message, _timeout: post_json(path_to("v2", "repository", "models", message.model_name, action), {})


def _parsed(response: type[Any], field: str = "") -> Callable[[HttpAnswer, Any], Any]:
    """Return a function that parses JSON into a response, or into its ``field``. Names are those of the .proto
    files."""

    def decode(answer: HttpAnswer, _request: Any) -> Any:
        value = {field: answer.json()} if field else answer.json()
        return json_format.ParseDict(value, response(), ignore_unknown_fields=True)

    return decode


def _health_request(message: health_pb2.HealthCheckRequest, _timeout: int | None) -> HttpRequest:
    path = model_path(message.service, "", "ready") if message.service else "v2/health/ready"
    return HttpRequest("GET", path)


def _health_response(answer: HttpAnswer, _request: Any) -> health_pb2.HealthCheckResponse:
    status = health_pb2.HealthCheckResponse.SERVING if _is_ready(answer) else health_pb2.HealthCheckResponse.NOT_SERVING
    if answer.status == 404:
        status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    return health_pb2.HealthCheckResponse(status=status)


def _is_ready(answer: HttpAnswer) -> bool:
    try:
        return answer.status == 200 and bool(answer.json().get("ready", True))
    except (ValueError, AttributeError):  # Triton's answer is empty
        return True


def _is_readiness(answer: HttpAnswer, _request: Any) -> bool:
    """Return whether the status reports readiness: 200 means ready, and 400 (Triton) or 503 (hangtag) not ready."""
    return answer.status in (200, 400, 503)


def _is_health(answer: HttpAnswer, request: health_pb2.HealthCheckRequest) -> bool:
    # the server answers 404 for an unknown model
    return _is_readiness(answer, request) or bool(answer.status == 404 and request.service)


ROUTES = {
    methods.CLASSIFY: Route(classify_request, classify_response),
    methods.COMPARE: Route(
        compare_request,
        compare_response,
        lambda answer, request: answer.status == 200 or is_outcome(answer, request),
    ),
    methods.MODEL_INFER: Route(infer_request, infer_response),
    methods.SERVER_METADATA: Route(lambda *_: HttpRequest("GET", "v2"), _parsed(inference_pb2.ServerMetadataResponse)),
    methods.MODEL_METADATA: Route(_of_model(), _parsed(inference_pb2.ModelMetadataResponse)),
    methods.MODEL_READY: Route(
        _of_model("ready"), lambda answer, _: inference_pb2.ModelReadyResponse(ready=_is_ready(answer)), _is_readiness
    ),
    methods.MODEL_CONFIG: Route(_of_model("config"), _parsed(inference_pb2.ModelConfigResponse, "config")),
    methods.MODEL_STATISTICS: Route(_statistics_request, _parsed(inference_pb2.ModelStatisticsResponse)),
    methods.REPOSITORY_INDEX: Route(
        lambda message, _: post_json("v2/repository/index", {"ready": message.ready}),
        _parsed(inference_pb2.RepositoryIndexResponse, "models"),
    ),
    methods.MODEL_LOAD: Route(_change_request("load"), lambda *_: inference_pb2.RepositoryModelLoadResponse()),
    methods.MODEL_UNLOAD: Route(_change_request("unload"), lambda *_: inference_pb2.RepositoryModelUnloadResponse()),
    methods.CHECK: Route(_health_request, _health_response, _is_health),
}
"""The full name of a method -> the method's route."""
