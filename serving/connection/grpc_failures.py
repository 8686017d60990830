"""Turn gRPC's failures into errors that say what to check."""

import re
from typing import Any

import grpc

from hangtag.serving.connection import errors
from hangtag.serving.connection.diagnosis import diagnose
from hangtag.serving.connection.errors import UNKNOWN_OUTCOME, ClientError
from hangtag.serving.connection.method import Method
from hangtag.serving.credentials import Credentials

# gRPC's message if it could not connect to any of the server's addresses, or if the server speaks another protocol.
# "resol" occurs in "errors resolving" and in "DNS resolution failed".
_NO_CONNECTION = re.compile("failed to connect|last error: |Failed parsing HTTP/2|handshake failed|resol")
# gRPC's message for an answer with an HTTP status that no gRPC server sends. gRPC turns the statuses 429, 502, 503 and
# 504 into UNAVAILABLE, and 500 and most others into UNKNOWN. gRPC turns 401, 403 and 404, which mean that nothing was
# executed, into other codes.
_HTTP_STATUS = re.compile(r"http2 header with status: (\d+)")
# gRPC's message, with the code INTERNAL, if a plain HTTP answer arrives before the client has ended a stream's
# requests.
_ANSWERED_IN_HTTP = "RST_STREAM with error code 0"
# The native transport's library ends a connection with these words if it mistakes the calls for an attack. See
# aio_connection.
_TOO_MANY_RESETS = "too_many_resets"
# gRPC's message for a connection that ended during a call. A message that also matches _NO_CONNECTION means that there
# was no connection.
_BROKEN = re.compile(
    "Socket closed|recvmsg|sendmsg|Connection reset|Connection timed out|Broken pipe|GOAWAY|keepalive|ping timeout"
)


def explained(
    error: grpc.RpcError, address: str, timeout: float | None, method: Method[Any], credentials: Credentials
) -> ClientError:
    """Return the error to raise for a failed call.

    If there was no connection, this function connects to the server to find out why, which may take seconds. See
    ``diagnose``.

    Args:
        error: the failed call.
        address: the address that was called.
        timeout: the call's deadline in seconds.
        method: the called method.
        credentials: the credentials of the call.
    """
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return (errors.stream_too_late if method.is_stream else errors.too_late)(address, timeout)
    answer_lost = _answer_lost(code, details)
    if code is grpc.StatusCode.INTERNAL and _ANSWERED_IN_HTTP in details:
        code = grpc.StatusCode.UNAVAILABLE
        details = f"a proxy at {address} ended the stream without a server's answer"
    elif answered := _HTTP_STATUS.search(details):
        details = f"a proxy at {address} answered HTTP {answered[1]}, so no server answered"
    elif code is grpc.StatusCode.UNAVAILABLE:
        details = _unavailable(details, address, credentials)
    message = details or code.name
    if answer_lost and not method.repeatable:
        message = f"{message}; {UNKNOWN_OUTCOME}"
    return ClientError(code, message)


def _answer_lost(code: grpc.StatusCode, details: str) -> bool:
    """Return whether the server may have executed the call, because the connection broke or a proxy answered."""
    if code is grpc.StatusCode.CANCELLED:
        return True
    if code is grpc.StatusCode.INTERNAL:
        return _ANSWERED_IN_HTTP in details
    if code is grpc.StatusCode.UNAVAILABLE and _broke(details):
        return True
    return code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN) and bool(_HTTP_STATUS.search(details))


def _broke(details: str) -> bool:
    """Return whether the connection broke during the call, so that the server may have executed the call."""
    return not _NO_CONNECTION.search(details) and bool(_BROKEN.search(details))


def _unavailable(details: str, address: str, credentials: Credentials) -> str:
    if _TOO_MANY_RESETS in details:
        return (
            f"the server at {address} closed the connection, because too many of the connection's calls were cancelled "
            "or missed their deadlines right after they began"
        )
    if _broke(details):
        return f"the connection to {address} broke before the answer came ({details})"
    if not _NO_CONNECTION.search(details):
        return details  # the server's own words
    reason = details.rpartition("last error: ")[2]
    shown = address if "Connection refused" in reason else f"{address} ({reason})"
    return diagnose(address, credentials, reason) or (
        f"no server answers at {shown}; start a server with 'hangtag serve', or name another server with --server"
    )
