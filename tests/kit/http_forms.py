"""Translates between gRPC's messages and HTTP's requests and responses, for each method of the services."""

import json
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from hangtag.protos import classifier_pb2
from hangtag.protos import inference_pb2 as pb
from tests.kit.rest import CODES, HEAD_LENGTH, Answer, as_http, model_path


class Sent(NamedTuple):
    """A request over HTTP."""

    verb: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012  nothing changes this dictionary


class HttpError(grpc.RpcError):
    """A refused call, with the status code that gRPC would have."""

    def __init__(self, code: grpc.StatusCode, details: str, status: int = 0) -> None:
        """Create the error of a call.

        Args:
            code: The status code that gRPC would have.
            details: The server's message.
            status: The HTTP status; 0 if there was no response.
        """
        super().__init__(details)
        self._code, self._details, self.status = code, details, status

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@dataclass(frozen=True)
class Form:
    """The HTTP form of a service's method."""

    sent: Callable[[Any, float | None], Sent]
    """Builds the request from the message and the seconds until the call's deadline."""
    received: Callable[[Answer], Any]
    """Builds gRPC's response from an HTTP response that is no refusal."""
    no_refusals: tuple[int, ...] = ()
    """HTTP statuses besides 200 that are not refusals for this method."""

    def read(self, answer: Answer) -> Any:
        """Return the response that gRPC would return. Raises HttpError for a refusal."""
        if answer.status == 200 or answer.status in self.no_refusals:
            return self.received(answer)
        raise HttpError(answer.code, answer.error, answer.status)


def _infer_sent(request: pb.ModelInferRequest, timeout: float | None) -> Sent:
    """Put the deadline into the request's parameter for deadlines, unless the request already has this parameter."""
    if timeout is not None and "timeout" not in request.parameters:
        own, request = request, pb.ModelInferRequest()
        request.CopyFrom(own)
        request.parameters["timeout"].int64_param = round(timeout * 1e6)
    return Sent("POST", *as_http(request))


def _infer_received(answer: Answer) -> pb.ModelInferResponse:
    head = answer.json
    response = pb.ModelInferResponse(
        model_name=head["model_name"], model_version=head["model_version"], id=head.get("id", "")
    )
    offset = int(answer.headers[HEAD_LENGTH])
    for output in head["outputs"]:
        size = output.pop("parameters")["binary_data_size"]
        response.outputs.append(pb.ModelInferResponse.InferOutputTensor(**output))
        response.raw_output_contents.append(answer.body[offset : offset + size])
        offset += size
    assert offset == len(answer.body)
    return response


def _get(path: str) -> Callable[[Any, float | None], Sent]:
    return lambda _message, _timeout: Sent("GET", path)


def _get_model(end: str = "") -> Callable[[Any, float | None], Sent]:
    return lambda message, _timeout: Sent("GET", model_path(message.name, message.version) + end)


def _post(path: str, **content: Any) -> Sent:
    return Sent("POST", path, json.dumps(content).encode() if content else b"")


def _control(action: str) -> Callable[[Any, float | None], Sent]:
    def sent(message: Any, _timeout: float | None) -> Sent:
        name = urllib.parse.quote(message.model_name, safe="")
        given = {key: getattr(each, each.WhichOneof("parameter_choice")) for key, each in message.parameters.items()}
        return _post(f"/v2/repository/models/{name}/{action}", **({"parameters": given} if given else {}))

    return sent


def _statistics(message: pb.ModelStatisticsRequest, _timeout: float | None) -> Sent:
    of_one = model_path(message.name, message.version) if message.name else "/v2/models"
    return Sent("GET", f"{of_one}/stats")


def _classify(message: Any, timeout: float | None) -> Sent:
    """The HTTP request for a ClassifyRequest or for a CompareRequest."""
    if isinstance(message, classifier_pb2.ClassifyRequest):
        choices = [(message.model_name, message.model_version)]
    else:
        choices = [(choice.name, choice.version) for choice in message.models]
    names = ",".join(f"{name}@{version}" if version else name for name, version in choices)
    query: dict[str, Any] = {"top_k": message.top_k}
    if timeout is not None:
        query["timeout"] = round(timeout * 1e6)
    if message.WhichOneof("image") == "raw":
        query |= {"height": message.raw.height, "width": message.raw.width}
    body = message.raw.pixels or message.encoded
    path = f"/v1/classify/{urllib.parse.quote(names, safe=',@')}".rstrip("/")
    return Sent("POST", f"{path}?{urllib.parse.urlencode(query)}", body)


def _compared(answer: Answer) -> classifier_pb2.CompareResponse:
    response = classifier_pb2.CompareResponse()
    for each in answer.json.get("outcomes") or [{"model_name": answer.json["model_name"], "answer": answer.json}]:
        added = response.outcomes.add(model_name=each["model_name"])
        if "answer" in each:
            json_format.ParseDict(each["answer"], added.answer)
        else:
            added.failure.code, added.failure.message = CODES[each["status"]].value[0], each["error"]
    return response


def _message(kind: Callable[[], Message]) -> Callable[[Answer], Any]:
    return lambda answer: json_format.ParseDict(answer.json, kind())


INFERENCE: dict[str, Form] = {
    "ServerLive": Form(_get("/v2/health/live"), _message(pb.ServerLiveResponse)),
    "ServerReady": Form(_get("/v2/health/ready"), _message(pb.ServerReadyResponse), no_refusals=(503,)),
    "ModelReady": Form(
        _get_model("/ready"), lambda answer: pb.ModelReadyResponse(ready=answer.status == 200), no_refusals=(404, 503)
    ),
    "ServerMetadata": Form(_get("/v2"), _message(pb.ServerMetadataResponse)),
    "ModelMetadata": Form(_get_model(), _message(pb.ModelMetadataResponse)),
    "ModelInfer": Form(_infer_sent, _infer_received),
    "ModelConfig": Form(
        _get_model("/config"),
        lambda answer: pb.ModelConfigResponse(config=json_format.ParseDict(answer.json, pb.ModelConfig())),
    ),
    "ModelStatistics": Form(_statistics, _message(pb.ModelStatisticsResponse)),
    "RepositoryIndex": Form(
        lambda message, _timeout: _post("/v2/repository/index", ready=message.ready),
        lambda answer: json_format.ParseDict({"models": answer.json}, pb.RepositoryIndexResponse()),
    ),
    "RepositoryModelLoad": Form(_control("load"), _message(pb.RepositoryModelLoadResponse)),
    "RepositoryModelUnload": Form(_control("unload"), _message(pb.RepositoryModelUnloadResponse)),
}
CLASSIFIER: dict[str, Form] = {
    "Classify": Form(_classify, _message(classifier_pb2.ClassifyResponse)),
    "Compare": Form(_classify, _compared),
}
