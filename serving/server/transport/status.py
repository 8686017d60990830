"""The status that a call ends with: one table from domain errors to gRPC status codes, and what is logged of a failure.

gRPC's codes are the server's vocabulary for failures; the metrics and every transport use them.
"""

import uuid

import grpc
import structlog

from hangtag.serving.server.errors import (
    CancelledError,
    ControlError,
    DeadlineError,
    InferenceError,
    InvalidRequestError,
    InvalidValuesError,
    MessageTooLargeError,
    NotFoundError,
    NothingToUnloadError,
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
    NothingToUnloadError: grpc.StatusCode.NOT_FOUND,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    # The queue is full: the model's holds max_queue_size requests, as many wait to be decoded, too many streams are
    # open, or the bodies of HTTP requests take --max-http-bodies-mib.
    QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    # The message is larger than --max-message-mib: gRPC's own code for it.
    MessageTooLargeError: grpc.StatusCode.RESOURCE_EXHAUSTED,
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

_codes: dict[type[Exception], grpc.StatusCode] = {}  # found so far, because a search takes as long as a refusal

_MAX_LOGGED_LENGTH = 128  # characters; the log must not grow with what callers send


def status_code(error: Exception) -> grpc.StatusCode:
    """Return the status code that a call ends with. INTERNAL, for an exception outside the table, means a bug."""
    kind = type(error)
    code = _codes.get(kind)
    if code is None:
        code = next((code for base, code in STATUS.items() if issubclass(kind, base)), grpc.StatusCode.INTERNAL)
        _codes[kind] = code
    return code


def call_status(error: Exception, rpc: str, request: object = None) -> tuple[grpc.StatusCode, str]:
    """Return the status code and the message that a call ends with.

    The caller gets a domain error's own message. Any other exception is a bug: the caller gets a reference, under which
    the log has the traceback. Only errors that are not the caller's fault are logged, and nothing of the headers or the
    metadata, in which callers send their tokens.

    Args:
        error: What ended the call.
        rpc: The method, /package.Service/Method or an HTTP method and its path, for the log.
        request: Its model and its id are logged.
    """
    code = status_code(error)
    if isinstance(error, ServerError):
        if code is grpc.StatusCode.INTERNAL:
            log.warning("request failed", reason=str(error), **_log_fields(rpc, request))
        return code, _short(str(error))
    reference = uuid.uuid4().hex[:12]
    log.error("unexpected error", reference=reference, exc_info=error, **_log_fields(rpc, request))
    return code, f"an error inside the server; its log has it under {reference}"


def _log_fields(rpc: str, request: object) -> dict[str, str]:
    """Return what identifies a request in the log. Its id is the ``id`` in the message of ModelInfer or of a stream."""
    method = rpc.rpartition("/")[2] if rpc.startswith("/") else rpc  # HTTP's begin with a verb
    model, request_id = (str(getattr(request, name, "")) for name in ("model_name", "id"))
    fields = {"rpc": method, "model": model, "request_id": request_id}
    return {name: text[:_MAX_LOGGED_LENGTH] for name, text in fields.items()}


def _short(message: str) -> str:
    """Cut a message that quotes a long request: it must fit a header of 8 KiB, where a character may take 12 bytes."""
    limit = 2500 if message.isascii() else 600
    return message if len(message) <= limit else f"{message[:limit]} ..."
