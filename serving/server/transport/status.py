"""The status that a call ends with: one table from domain errors to gRPC's and HTTP's, and what is logged of a failure.

gRPC's codes are the server's vocabulary for failures; the metrics use them for HTTP too.
"""

import uuid
from typing import NamedTuple

import grpc
import structlog

from hangtag.serving.server.errors import (
    CancelledError,
    ControlError,
    DeadlineError,
    ForeignOriginError,
    InferenceError,
    InvalidRequestError,
    InvalidValuesError,
    MessageTooLargeError,
    NotFoundError,
    QueueFullError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedEncodingError,
)

log = structlog.get_logger()


class Status(NamedTuple):
    """What a call or a request ends with."""

    grpc: grpc.StatusCode
    http: int


_CODE = grpc.StatusCode
STATUS: dict[type[ServerError], Status] = {
    # The request does not fit the model that it names.
    UnsupportedEncodingError: Status(_CODE.INVALID_ARGUMENT, 415),
    InvalidRequestError: Status(_CODE.INVALID_ARGUMENT, 400),
    # No model of this name, or no version of it, is served here.
    NotFoundError: Status(_CODE.NOT_FOUND, 404),
    # The queue is full: the model's holds max_queue_size requests, as many wait to be decoded, too many streams are
    # open, or the bodies of HTTP requests take --max-http-bodies-mib.
    QueueFullError: Status(_CODE.RESOURCE_EXHAUSTED, 429),
    # The message is larger than --max-message-mib: gRPC's own code for it.
    MessageTooLargeError: Status(_CODE.RESOURCE_EXHAUSTED, 413),
    # The deadline has passed, or the measured service time shows that the answer would come too late.
    DeadlineError: Status(_CODE.DEADLINE_EXCEEDED, 504),
    # The caller cancelled or disconnected before the answer was computed: nobody reads nginx' number.
    CancelledError: Status(_CODE.CANCELLED, 499),
    # The models are being loaded, or the server drains before it stops.
    UnavailableError: Status(_CODE.UNAVAILABLE, 503),
    # A model cannot be loaded or unloaded by call: the file is broken, or --model-control forbids it. 400 is Triton's.
    ControlError: Status(_CODE.FAILED_PRECONDITION, 400),
    # The call has no valid token, or a page of another site sends it.
    ForeignOriginError: Status(_CODE.UNAUTHENTICATED, 403),
    UnauthenticatedError: Status(_CODE.UNAUTHENTICATED, 401),
    # ONNX Runtime refused the values of this request, such as an index out of range: the caller's fault.
    InvalidValuesError: Status(_CODE.INVALID_ARGUMENT, 400),
    # ONNX Runtime failed on a valid request: not the caller's fault.
    InferenceError: Status(_CODE.INTERNAL, 500),
}
"""The status of each error, and of its subclasses; a subclass with a status of its own stands before its base."""

_BUG = Status(_CODE.INTERNAL, 500)
_statuses: dict[type[Exception], Status] = {}  # found so far, because a search takes as long as a refusal

_MAX_LOGGED_LENGTH = 128  # characters; the log must not grow with what callers send


def status(error: Exception) -> Status:
    """Return the status that a call ends with. INTERNAL and 500, for an exception outside the table, mean a bug."""
    kind = type(error)
    found = _statuses.get(kind)
    if found is None:
        found = next((status for base, status in STATUS.items() if issubclass(kind, base)), _BUG)
        _statuses[kind] = found
    return found


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
    code = status(error).grpc
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
