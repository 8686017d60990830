"""The requests and answers of HTTP, and the gRPC code for each HTTP status."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import grpc


@dataclass(frozen=True)
class HttpRequest:
    """An HTTP request.

    Attributes:
        verb: GET or POST.
        path: the path relative to the server's address, quoted, including the query.
        body: empty if there is no body.
        headers: the headers that describe the body.
    """

    verb: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HttpAnswer:
    """An HTTP answer whose body was read to its end.

    Attributes:
        status: the status code, such as 200.
        headers: header name in lower case -> value.
        body: empty if there is no body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, end: int | None = None) -> Any:
        """Parse the body, or its first ``end`` bytes.

        Raises:
            ValueError: the bytes are not JSON, or the JSON is nested too deeply to be read.
        """
        try:
            return json.loads(self.body[:end])
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error


def path_to(*segments: str, **query: object) -> str:
    """Quote and join the segments to a path, and append a query string with the values that are not None."""
    path = "/".join(quote(segment, safe="") for segment in segments)
    values = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(values)}" if values else path


def post_json(path: str, value: object) -> HttpRequest:
    """Return a request with a JSON body."""
    return HttpRequest("POST", path, json.dumps(value).encode(), {"content-type": "application/json"})


_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    411: grpc.StatusCode.INVALID_ARGUMENT,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    431: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def status_code(status: int) -> grpc.StatusCode:
    """Return gRPC's code for an HTTP status; UNKNOWN for a status that no server of the protocol sends."""
    return _CODES.get(status, grpc.StatusCode.UNKNOWN)


def error_text(answer: HttpAnswer) -> str:
    """Return the text of a refusal, ``{"error": "..."}``; empty if the answer does not follow the protocol."""
    try:
        text = answer.json()["error"]
    except (ValueError, LookupError, TypeError):
        return ""
    return text if isinstance(text, str) else ""
