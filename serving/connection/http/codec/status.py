"""What an HTTP status means in gRPC's codes, which ``ClientError`` has for every connection."""

import grpc

from hangtag.serving.connection.http.codec.wire import HttpAnswer

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
    """Return gRPC's code for an HTTP status; UNKNOWN for one that no server of the protocol sends."""
    return _CODES.get(status, grpc.StatusCode.UNKNOWN)


def error_text(answer: HttpAnswer) -> str:
    """Return the sentence of a refusal, ``{"error": "..."}``; empty where the answer is not of the protocol."""
    try:
        text = answer.json()["error"]
    except (ValueError, LookupError, TypeError):
        return ""
    return text if isinstance(text, str) else ""
