"""Domain errors -> gRPC status codes: one table, and the wrapper that applies it to a servicer's methods."""

import functools
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

import grpc
import structlog

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import (
    CancelledError,
    ControlError,
    DeadlineError,
    InferenceError,
    InvalidRequestError,
    InvalidValuesError,
    NotFoundError,
    QueueFullError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
)

log = structlog.get_logger()

STATUS: dict[type[ServerError], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    CancelledError: grpc.StatusCode.CANCELLED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    ControlError: grpc.StatusCode.FAILED_PRECONDITION,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    InvalidValuesError: grpc.StatusCode.INVALID_ARGUMENT,
    InferenceError: grpc.StatusCode.INTERNAL,
}

REQUEST_ID = "x-request-id"
_LONGEST = 128  # of what a caller made up, in the log

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")


def code_of(error: Exception) -> grpc.StatusCode:
    """The status that a call ends with; what is no domain error is a bug of ours."""
    return STATUS[type(error)] if isinstance(error, ServerError) else grpc.StatusCode.INTERNAL


def status_of(error: Exception, rpc: str, identity: Mapping[str, str] = {}) -> tuple[grpc.StatusCode, str]:
    """The status and the message that a call ends with; for a bug of ours, a reference to the log that has the rest.

    identity: what the log says of the request. What the caller did wrong is told to the caller alone.
    """
    code = code_of(error)
    if isinstance(error, ServerError):
        if code is grpc.StatusCode.INTERNAL:
            log.warning("request failed", rpc=rpc, reason=str(error), **identity)
        return code, _short(str(error))
    reference = uuid.uuid4().hex[:12]
    log.error("unexpected error", rpc=rpc, reference=reference, exc_info=error, **identity)
    return code, f"an error inside the server; its log has it under {reference}"


def answers_errors(
    method: Callable[[Servicer, Request, grpc.ServicerContext], Response],
) -> Callable[[Servicer, Request, grpc.ServicerContext], Response]:
    """Let a servicer's method raise domain errors: each ends the call with its status and its own message."""

    @functools.wraps(method)
    def answering(servicer: Servicer, request: Request, context: grpc.ServicerContext) -> Response:
        try:
            return method(servicer, request, context)
        except Exception as error:
            context.abort(*status_of(error, method.__name__, identity_of(request, context.invocation_metadata())))

    return answering


def identity_of(request: object, metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """What the caller calls this request: ModelInfer's ``id``, else the metadata x-request-id."""
    identity = str(getattr(request, "id", "") or dict(metadata).get(REQUEST_ID, ""))
    model = str(getattr(request, "model_name", ""))
    return {"model": model[:_LONGEST], "request_id": identity[:_LONGEST]}


class AsksTheEngine(Protocol):
    """A servicer whose calls are counted."""

    _engine: Engine


Asking = TypeVar("Asking", bound=AsksTheEngine)


def counts_failures(
    method: Callable[[Asking, Request, grpc.ServicerContext], Response],
) -> Callable[[Asking, Request, grpc.ServicerContext], Response]:
    """Count the errors that a method raises, by model, version and code. It stands below answers_errors."""

    @functools.wraps(method)
    def counting(servicer: Asking, request: Request, context: grpc.ServicerContext) -> Response:
        started = time.perf_counter_ns()
        try:
            return method(servicer, request, context)
        except Exception as error:
            elapsed = time.perf_counter_ns() - started
            name, version = (getattr(request, field, "") for field in ("model_name", "model_version"))
            servicer._engine.record_failure(name, version, code_of(error).name, elapsed)
            raise

    return counting


def _short(message: str) -> str:
    """Messages quote what the caller sent, but travel in a header of 8 KiB where one character may take 12 bytes."""
    limit = 2500 if message.isascii() else 600
    return message if len(message) <= limit else f"{message[:limit]} ..."
