"""Turn gRPC's failures into errors that say what to check."""

import re
from typing import Any

import grpc

from hangtag.serving import address as server_address
from hangtag.serving.connection.errors import UNKNOWN_OUTCOME, ClientError
from hangtag.serving.connection.method import Method

# gRPC's words for a port that answers in another protocol, to a call without TLS and to one with it.
_NOT_GRPC = ("Failed parsing HTTP/2", "handshake failed")
# And for an answer that is none of a gRPC server's. UNAVAILABLE stands for the statuses 429, 502, 503 and 504, and
# UNKNOWN for 500 and others; 401, 403 and 404 have codes of their own.
_HTTP_STATUS = re.compile(r"http2 header with status: (\d+)")
# And for a stream whose other side answered in HTTP alone while the client could still send; the code is INTERNAL.
_ANSWERED_IN_HTTP = "RST_STREAM with error code 0"
# The words of the native transport's library for a connection that it has ended as an attack: see `resets`.
_TOO_MANY_RESETS = "too_many_resets"
# And for a connection that ends under a call. Where none was made, "failed to connect" stands before the same words.
_BROKEN = re.compile(
    "Socket closed|recvmsg|sendmsg|Connection reset|Connection timed out|Broken pipe|GOAWAY|keepalive|ping timeout"
)


def explained(error: grpc.RpcError, address: str, timeout: float | None, method: Method[Any]) -> ClientError:
    """Return the error to raise for a failed call.

    It may ask the port for HTTP/1.1, which takes up to ``address.HTTP_TIMEOUT`` seconds.

    Args:
        error: the failed call.
        address: where the call went.
        timeout: the call's deadline in seconds.
        method: what was called.
    """
    code, details = error.code(), error.details() or ""
    answer_lost = _answer_lost(code, details)
    if code is grpc.StatusCode.INTERNAL and _ANSWERED_IN_HTTP in details:
        code = grpc.StatusCode.UNAVAILABLE
        details = f"a proxy at {address} ended the stream without the answer of a server"
    unavailable = code is grpc.StatusCode.UNAVAILABLE
    speaks_no_grpc = unavailable and any(words in details for words in _NOT_GRPC)
    if speaks_no_grpc and (explanation := server_address.http_explanation(address)):
        details = explanation
    elif unavailable:
        details = _unavailable(details, address)
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = f"no answer from {address} within {timeout:g} s"
    message = details or code.name
    if answer_lost and not method.repeatable:
        message = f"{message}; {UNKNOWN_OUTCOME}"
    return ClientError(code, message)


def _answer_lost(code: grpc.StatusCode, details: str) -> bool:
    """Whether the server may have executed the call: the connection to it ended, or a proxy answered in its place."""
    if code is grpc.StatusCode.CANCELLED:
        return True
    if code is grpc.StatusCode.INTERNAL:
        return _ANSWERED_IN_HTTP in details
    if code is grpc.StatusCode.UNAVAILABLE and _broke(details):
        return True
    return code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN) and bool(_HTTP_STATUS.search(details))


def _broke(details: str) -> bool:
    """Whether the connection ended under the call, which the server may have executed then."""
    return "failed to connect" not in details and bool(_BROKEN.search(details))


def _unavailable(details: str, address: str) -> str:
    if "handshake failed" in details:
        return f"no TLS with {address}; is --tls-ca its authority, and does it serve TLS? {_reason(details)}"
    if status := _HTTP_STATUS.search(details):
        return f"a proxy at {address} answered HTTP {status[1]} in place of a server"
    if _TOO_MANY_RESETS in details:
        return (
            f"the server at {address} ended the connection, because too many calls on it were cancelled, "
            "or missed their deadline, as soon as they had begun"
        )
    if "Socket closed" in details:
        return (
            f"the server at {address} closed the connection; "
            "does it want TLS (--tls-ca), or a client certificate (--tls-cert, --tls-key)?"
        )
    if _broke(details):
        return f"the connection to {address} broke before the answer came ({details})"
    if "connect" in details.lower():
        return f"no server answers at {address}; start one with 'hangtag serve', or name another with --server"
    if "resol" in details:  # "errors resolving", "DNS resolution failed"
        return f"the host of {address} is unknown; name the server with --server, as HOST:PORT"
    return details


def _reason(details: str) -> str:
    """OpenSSL's reason for a failed handshake, taken from gRPC's sentence."""
    reason = re.search(r"OPENSSL_internal:(\w+)", details)
    return f"({reason[1].replace('_', ' ').lower()})" if reason else f"({details})"
