"""Builds the HTTP request for each gRPC method, and reads the answer as the method's response. This module does no I/O.

ModelInfer is sent with the binary tensor extension, and Classify and Compare as POST /v1/classify.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from hangtag.protos import classifier_pb2, methods, tensors
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.connection import failures
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.method import CONTROL, Method

METRICS: Method[Any] = Method("/metrics", Message)
"""Reads Prometheus metrics in the text format. The request object of a call is simply the path of the metrics URL."""
HEAD_LENGTH = "inference-header-content-length"
"""The header that contains the length of the JSON in bytes."""
BINARY_SIZE = "binary_data_size"
_BYTES = {"content-type": "application/octet-stream"}
_JSON = {"content-type": "application/json"}
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, 411, 415),
    grpc.StatusCode.UNAUTHENTICATED: (401,),
    grpc.StatusCode.PERMISSION_DENIED: (403,),
    grpc.StatusCode.NOT_FOUND: (404,),
    grpc.StatusCode.UNIMPLEMENTED: (405, 501),
    grpc.StatusCode.DEADLINE_EXCEEDED: (408, 504),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (413, 429, 431),
    grpc.StatusCode.CANCELLED: (499,),
    grpc.StatusCode.INTERNAL: (500,),
    grpc.StatusCode.UNAVAILABLE: (502, 503),
}
_CODES = {status: code for code, statuses in _STATUSES.items() for status in statuses}
_QUOTED = 200  # an error quotes at most this many characters of an answer that does not follow the protocol
# If Compare is called for one model and the answer has one of these codes, the whole call failed, not only the model.
_OF_THE_CALL = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE)


@dataclass(frozen=True)
class HttpRequest:
    """An HTTP request. Its path is quoted, and relative to the server's address. Its headers describe the body."""

    verb: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HttpAnswer:
    """An HTTP answer that was read to its end. The names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> grpc.StatusCode:
        """gRPC's code for the status; UNKNOWN for a status that no server of the protocol sends."""
        return _CODES.get(self.status, grpc.StatusCode.UNKNOWN)

    @property
    def error(self) -> str:
        """The text of a refusal, ``{"error": "..."}``; empty if the answer does not follow the protocol."""
        try:
            text = json.loads(self.body)["error"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return ""
        return text if isinstance(text, str) else ""


def refusal(answer: HttpAnswer, method: Method[Any], request: HttpRequest, address: str) -> ClientError:
    """Return the error for an answer whose HTTP status reports a failure."""
    code, executed = answer.code, False
    if code is grpc.StatusCode.INVALID_ARGUMENT and method.path in CONTROL:
        code = grpc.StatusCode.FAILED_PRECONDITION  # a server sends HTTP status 400 for both codes
    if answer.error:
        message = answer.error
    elif answer.status in (404, 405, 501):
        code = grpc.StatusCode.UNIMPLEMENTED
        message = (
            f"the server at {address} has no /{request.path.partition('?')[0]}; is this the address of hangtag's HTTP "
            "port ('hangtag serve --http-port', by default 8000)?"
        )
    elif 300 <= answer.status < 400:
        message = f"{address} redirects to {answer.headers.get('location')}; use that address"
    else:
        quoted, executed = answer.body[:_QUOTED].decode(errors="replace").strip(), True
        message = f"{address} answered {answer.status} {quoted}".rstrip()
    return failures.failed(code, message, method, executed=executed)


def _path(*segments: str, **query: object) -> str:
    """Quote the segments, and join them into a path. The query leaves out values that are None."""
    path = "/".join(quote(segment, safe="") for segment in segments)
    values = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(values)}" if values else path


def _model_path(model: str, version: str, *more: str) -> str:
    return _path("v2", "models", model, *(("versions", version) if version else ()), *more)


def _infer_request(message: pb.ModelInferRequest, timeout: int | None) -> HttpRequest:
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
    path = _model_path(message.model_name, message.model_version, "infer")
    body = b"".join((head, *message.raw_input_contents))
    return HttpRequest("POST", path, body, {**_BYTES, HEAD_LENGTH: str(len(head))})


def _infer_response(answer: HttpAnswer, _request: object) -> pb.ModelInferResponse:
    offset = int(answer.headers.get(HEAD_LENGTH, len(answer.body)))
    if not 0 <= offset <= len(answer.body):
        raise ValueError(f"{HEAD_LENGTH} is {offset}, but the body has {len(answer.body)} bytes")
    head = json.loads(answer.body[:offset])
    response = pb.ModelInferResponse(model_name=head["model_name"], model_version=head.get("model_version", ""))
    for output in head["outputs"]:
        name, datatype, shape = output["name"], output["datatype"], output["shape"]
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        size = output.get("parameters", {}).get(BINARY_SIZE)
        if size is None:  # a server may answer in JSON although the client requested binary data
            values = tensors.from_numbers(datatype, shape, output["data"], f"data of output {name!r}")
            response.raw_output_contents.append(tensors.to_raw(values))
        else:
            if not 0 <= size <= len(answer.body) - offset:
                raise ValueError(f"{BINARY_SIZE} of output {name!r} is {size}, not 0 to {len(answer.body) - offset}")
            response.raw_output_contents.append(answer.body[offset : offset + size])
            offset += size
    return response


def _image_request(
    message: classifier_pb2.ClassifyRequest | classifier_pb2.CompareRequest, timeout: int | None
) -> HttpRequest:
    if isinstance(message, classifier_pb2.CompareRequest):
        models = [(model.name, model.version) for model in message.models]
    else:
        models = [(message.model_name, message.model_version)]
    names = ",".join(f"{name}@{version}" if version else name for name, version in models)
    query: dict[str, object] = {"top_k": message.top_k or None, "timeout": timeout}
    body = message.encoded
    if message.HasField("raw"):
        query |= {"height": message.raw.height, "width": message.raw.width}
        body = message.raw.pixels
    return HttpRequest("POST", _path("v1", "classify", *filter(None, [names]), **query), body, _BYTES)


def _compare_response(answer: HttpAnswer, request: classifier_pb2.CompareRequest) -> classifier_pb2.CompareResponse:
    if len(request.models) != 1:
        outcomes = json.loads(answer.body)["outcomes"]
    elif answer.status == 200:  # the server sends the same answer or error as for Classify
        outcomes = [{"model_name": request.models[0].name, "answer": json.loads(answer.body)}]
    else:
        outcomes = [{"model_name": request.models[0].name, "status": answer.status, "error": answer.error}]
    for outcome in outcomes:
        if outcome.get("answer") is None:
            code = _CODES.get(outcome.pop("status"), grpc.StatusCode.UNKNOWN)
            outcome["failure"] = {"code": code.value[0], "message": outcome.pop("error")}
    return json_format.ParseDict({"outcomes": outcomes}, classifier_pb2.CompareResponse(), ignore_unknown_fields=True)


def _is_comparison(answer: HttpAnswer, request: classifier_pb2.CompareRequest) -> bool:
    """Return whether an answer has an outcome for each model. For a single model, the outcome may be an error."""
    failed = len(request.models) == 1 and answer.error and answer.code not in _OF_THE_CALL
    return answer.status == 200 or bool(failed)


def _health_response(answer: HttpAnswer, _request: Any) -> health_pb2.HealthCheckResponse:
    status = {200: "SERVING", 404: "SERVICE_UNKNOWN"}.get(answer.status, "NOT_SERVING")
    return health_pb2.HealthCheckResponse(status=status)


def _is_readiness(answer: HttpAnswer, request: Any) -> bool:
    """Return whether the status reports readiness: 200 means ready, and 400 (Triton) or 503 (hangtag) not ready."""
    of_model = isinstance(request, health_pb2.HealthCheckRequest) and request.service
    return answer.status in (200, 400, 503) or bool(of_model and answer.status == 404)  # 404: an unknown model


@dataclass(frozen=True)
class Route:
    """How one method is called over HTTP.

    ``encode`` makes the HTTP request from the message and the microseconds until the deadline (None for no deadline).
    ``answers`` returns whether the call succeeded. ``decode`` then makes the response, and may raise any exception.
    """

    encode: Callable[[Any, int | None], HttpRequest]
    decode: Callable[[HttpAnswer, Any], Any]
    answers: Callable[[HttpAnswer, Any], bool] = lambda answer, _: answer.status == 200


def _parsed(response: type[Any], field: str = "") -> Callable[[HttpAnswer, Any], Any]:
    """Return a function that parses JSON into a response, or into one ``field`` of a response."""

    def decode(answer: HttpAnswer, _request: Any) -> Any:
        value = {field: json.loads(answer.body)} if field else json.loads(answer.body)
        return json_format.ParseDict(value, response(), ignore_unknown_fields=True)

    return decode


def _get(path: Callable[[Any], str]) -> Callable[[Any, int | None], HttpRequest]:
    return lambda message, _: HttpRequest("GET", path(message))


def _of_model(*more: str) -> Callable[[Any, int | None], HttpRequest]:
    return _get(lambda message: _model_path(message.name, message.version, *more))


def _change(action: str) -> Callable[[Any, int | None], HttpRequest]:
    return lambda message, _: HttpRequest(
        "POST", _path("v2", "repository", "models", message.model_name, action), b"{}", _JSON
    )


ROUTES = {
    methods.CLASSIFY: Route(_image_request, _parsed(classifier_pb2.ClassifyResponse)),
    methods.COMPARE: Route(_image_request, _compare_response, _is_comparison),
    methods.MODEL_INFER: Route(_infer_request, _infer_response),
    methods.SERVER_METADATA: Route(_get(lambda _: "v2"), _parsed(pb.ServerMetadataResponse)),
    methods.MODEL_METADATA: Route(_of_model(), _parsed(pb.ModelMetadataResponse)),
    methods.MODEL_READY: Route(
        _of_model("ready"), lambda answer, _: pb.ModelReadyResponse(ready=answer.status == 200), _is_readiness
    ),
    methods.MODEL_CONFIG: Route(_of_model("config"), _parsed(pb.ModelConfigResponse, "config")),
    methods.MODEL_STATISTICS: Route(
        _get(lambda one: _model_path(one.name, one.version, "stats") if one.name else "v2/models/stats"),
        _parsed(pb.ModelStatisticsResponse),
    ),
    methods.REPOSITORY_INDEX: Route(
        lambda message, _: HttpRequest(
            "POST", "v2/repository/index", json.dumps({"ready": message.ready}).encode(), _JSON
        ),
        _parsed(pb.RepositoryIndexResponse, "models"),
    ),
    methods.MODEL_LOAD: Route(_change("load"), lambda *_: pb.RepositoryModelLoadResponse()),
    methods.MODEL_UNLOAD: Route(_change("unload"), lambda *_: pb.RepositoryModelUnloadResponse()),
    METRICS.path: Route(_get(lambda path: str(path)), lambda answer, _: answer.body.decode()),
    methods.CHECK: Route(
        _get(lambda one: _model_path(one.service, "", "ready") if one.service else "v2/health/ready"),
        _health_response,
        _is_readiness,
    ),
}
"""The full name of a gRPC method -> how the method is called over HTTP."""
