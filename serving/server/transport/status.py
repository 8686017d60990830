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
    # The request does not fit the model that it names.
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    # No model of this name, or no version of it, is served here.
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    # The queue is full: the model's queue holds max_queue_size requests, or too many streams are open.
    QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    # The deadline has passed, or the measured service time shows that the answer would come too late.
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    # The caller cancelled or disconnected before the answer was computed.
    CancelledError: grpc.StatusCode.CANCELLED,
    # The models are being loaded, or the server drains before it stops.
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    # A model cannot be loaded or unloaded by call: the file is broken, or --model-control forbids it.
    ControlError: grpc.StatusCode.FAILED_PRECONDITION,
    # The call has no valid token.
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    # ONNX Runtime refused the values of this request, such as an index out of range: the caller's fault.
    InvalidValuesError: grpc.StatusCode.INVALID_ARGUMENT,
    # ONNX Runtime failed on a valid request: not the caller's fault.
    InferenceError: grpc.StatusCode.INTERNAL,
}
"""The status code of each error, and of its subclasses; a subclass with a code of its own stands before its base."""

REQUEST_ID = "x-request-id"
_MAX_LOGGED_LENGTH = 128  # characters; the log must not grow with what callers send

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")


def status_code(error: Exception) -> grpc.StatusCode:
    """The status code that a call ends with. Any exception that is not in the table is a bug of ours: INTERNAL."""
    return next((code for kind, code in STATUS.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def call_status(error: Exception, rpc: str, log_fields: Mapping[str, str] = {}) -> tuple[grpc.StatusCode, str]:
    """The status code and the message that a call ends with.

    The caller gets a domain error's own message. Any other exception is a bug: the caller gets a reference, under which
    the log has the traceback. Only errors that are not the caller's fault are logged.

    Args:
        error: what ended the call.
        rpc: the method's name, for the log.
        log_fields: the request's identity, for the log (see `request_log_fields`).
    """
    code = status_code(error)
    if isinstance(error, ServerError):
        if code is grpc.StatusCode.INTERNAL:
            log.warning("request failed", rpc=rpc, reason=str(error), **log_fields)
        return code, _short(str(error))
    reference = uuid.uuid4().hex[:12]
    log.error("unexpected error", rpc=rpc, reference=reference, exc_info=error, **log_fields)
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
            context.abort(
                *call_status(error, method.__name__, request_log_fields(request, context.invocation_metadata()))
            )

    return answering


def request_log_fields(request: object, metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """The request's model and id for the log. The id is ModelInfer's ``id``, else the metadata x-request-id."""
    request_id = str(getattr(request, "id", "") or dict(metadata).get(REQUEST_ID, ""))
    model = str(getattr(request, "model_name", ""))
    return {"model": model[:_MAX_LOGGED_LENGTH], "request_id": request_id[:_MAX_LOGGED_LENGTH]}


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
            servicer._engine.record_failure(name, version, status_code(error).name, elapsed)
            raise

    return counting


def _short(message: str) -> str:
    """Messages quote what the caller sent, but travel in a header of 8 KiB where one character may take 12 bytes."""
    limit = 2500 if message.isascii() else 600
    return message if len(message) <= limit else f"{message[:limit]} ..."
