"""The response that a caller over HTTP gets for an error."""

from starlette.exceptions import HTTPException

from hangtag.serving.server.transport.http.responses import Header, HttpResponse, json_response
from hangtag.serving.server.transport.status import call_status, status

RETRY_AFTER_SECONDS = b"1"


_HEADERS: dict[int, tuple[Header, ...]] = {
    401: ((b"www-authenticate", b"Bearer"),),
    # What remains of a body that is too large is not read, so the connection cannot be used again.
    413: ((b"connection", b"close"),),
    429: ((b"retry-after", RETRY_AFTER_SECONDS),),
    503: ((b"retry-after", RETRY_AFTER_SECONDS),),
}


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
    code = status(error).http
    return json_response({"error": call_status(error, method, request)[1]}, code, _HEADERS.get(code, ()))
