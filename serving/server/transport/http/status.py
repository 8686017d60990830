"""The HTTP status that a request ends with: one table from domain errors, and the response that a caller gets."""

from starlette.exceptions import HTTPException

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
from hangtag.serving.server.transport.http.responses import Header, HttpResponse, json_response
from hangtag.serving.server.transport.status import call_status

RETRY_AFTER_SECONDS = b"1"


class UnsupportedEncodingError(InvalidRequestError):
    """The body has a Content-Encoding that the server does not read."""


class ForeignOriginError(UnauthenticatedError):
    """A page of another site asks a browser to change what the server serves, or the Host is no name of this server."""


STATUS: dict[type[ServerError], int] = {
    UnsupportedEncodingError: 415,
    InvalidRequestError: 400,
    NothingToUnloadError: 404,
    NotFoundError: 404,
    QueueFullError: 429,
    MessageTooLargeError: 413,
    DeadlineError: 504,
    CancelledError: 499,  # nginx' number; nobody reads it, because the caller has left
    UnavailableError: 503,
    ControlError: 400,  # Triton's too; Google's mapping of gRPC's FAILED_PRECONDITION
    ForeignOriginError: 403,
    UnauthenticatedError: 401,
    InvalidValuesError: 400,
    InferenceError: 500,
}
"""The status of each error, and of its subclasses; a subclass with a status of its own stands before its base."""

_HEADERS: dict[int, tuple[Header, ...]] = {
    401: ((b"www-authenticate", b"Bearer"),),
    # What remains of a body that is too large is not read, so the connection cannot be used again.
    413: ((b"connection", b"close"),),
    429: ((b"retry-after", RETRY_AFTER_SECONDS),),
    503: ((b"retry-after", RETRY_AFTER_SECONDS),),
}


def http_status(error: Exception) -> int:
    """Return the status that a request ends with. 500, for an exception outside the table, means a bug."""
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)


def error_response(error: Exception, method: str, request: object = None) -> HttpResponse:
    """Return the response that says what went wrong, in the same sentence as gRPC's.

    Args:
        error: What ended the request.
        method: The request's method and route, for the log.
        request: Its model and its id are logged.
    """
    if isinstance(error, HTTPException):  # the router's: no such path, or not with this method
        more = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
        text = "there is no such path; GET /openapi.json describes all"
        if error.status_code == 405:
            text = f"this path takes {(error.headers or {}).get('Allow')}; GET /openapi.json describes it"
        return json_response({"error": text}, error.status_code, more)
    status = http_status(error)
    return json_response({"error": call_status(error, method, request)[1]}, status, _HEADERS.get(status, ()))
