"""Classify and Compare over HTTP: POST /v1/classify, with the image as the body and JSON for an answer."""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import json_format

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.connection.http.codec.status import error_text, status_code
from hangtag.serving.connection.http.codec.wire import HttpAnswer, HttpRequest, path_to

_OF_THE_CALL = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE)


def classify_request(message: pb.ClassifyRequest, timeout: int | None) -> HttpRequest:
    """Return the request for one model. ``timeout`` is in microseconds; None is no deadline."""
    return _request(message, [pb.ModelChoice(name=message.model_name, version=message.model_version)], timeout)


def classify_response(answer: HttpAnswer, _request: object) -> pb.ClassifyResponse:
    """Read the answer of one model. Raises ValueError and ParseError where it is not of the protocol."""
    return _classification(answer.json())


def compare_request(message: pb.CompareRequest, timeout: int | None) -> HttpRequest:
    """Return the request for several models, or for all. ``timeout`` is in microseconds; None is no deadline."""
    return _request(message, message.models, timeout)


def compare_response(answer: HttpAnswer, request: pb.CompareRequest) -> pb.CompareResponse:
    """Read the answers of several models; a single model is answered, or refused, as by Classify."""
    if len(request.models) != 1:
        return pb.CompareResponse(outcomes=[_outcome(outcome) for outcome in answer.json()["outcomes"]])
    name = request.models[0].name
    if answer.status == 200:
        return pb.CompareResponse(outcomes=[pb.ModelOutcome(model_name=name, answer=_classification(answer.json()))])
    failure = _failure(answer.status, error_text(answer))
    return pb.CompareResponse(outcomes=[pb.ModelOutcome(model_name=name, failure=failure)])


def is_outcome(answer: HttpAnswer, request: pb.CompareRequest) -> bool:
    """Return whether a refusal of a comparison is the outcome of its only model, and not of the whole call."""
    only = len(request.models) == 1
    return only and bool(error_text(answer)) and status_code(answer.status) not in _OF_THE_CALL


def _request(
    message: pb.ClassifyRequest | pb.CompareRequest, models: Sequence[pb.ModelChoice], timeout: int | None
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


def _classification(value: Any) -> pb.ClassifyResponse:
    return json_format.ParseDict(value, pb.ClassifyResponse(), ignore_unknown_fields=True)


def _outcome(outcome: dict[str, Any]) -> pb.ModelOutcome:
    name = outcome["model_name"]
    if "answer" in outcome:
        return pb.ModelOutcome(model_name=name, answer=_classification(outcome["answer"]))
    return pb.ModelOutcome(model_name=name, failure=_failure(outcome["status"], outcome["error"]))


def _failure(status: int, message: str) -> pb.Failure:
    return pb.Failure(code=status_code(status).value[0], message=message)
