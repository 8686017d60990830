"""Turn gRPC's failures into errors that say what to check."""

import re
from typing import Any

import grpc

from hangtag.serving.connection import errors
from hangtag.serving.connection.diagnosis import diagnose
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.method import Method
from hangtag.serving.credentials import Credentials

# gRPC's message if it could not connect to any of the server's addresses, or if the server speaks another protocol.
# "resol" occurs in "errors resolving" and in "DNS resolution failed".
_NO_CONNECTION = re.compile("failed to connect|last error: |Failed parsing HTTP/2|handshake failed|resol")
# gRPC's message for an answer with an HTTP status that no gRPC server sends. gRPC turns the statuses 429, 502, 503 and
# 504 into UNAVAILABLE, and 500 and most others into UNKNOWN. gRPC turns 401, 403 and 404, which mean that nothing was
# executed, into other codes.
_HTTP_STATUS = re.compile(r"http2 header with status: (\d+)")
# gRPC's message, with the code INTERNAL, if a plain HTTP answer arrives before the client has sent all requests of
# a stream.
_ANSWERED_IN_HTTP = "RST_STREAM with error code 0"
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
        stream = "Stream" in method.path  # ClassifyStream or ModelStreamInfer
        return errors.too_late(address, timeout, stream=stream)
    broke = code is grpc.StatusCode.UNAVAILABLE and not _NO_CONNECTION.search(details) and _BROKEN.search(details)
    executed = broke or code is grpc.StatusCode.CANCELLED  # whether the server may have executed the call
    if code is grpc.StatusCode.INTERNAL and _ANSWERED_IN_HTTP in details:
        code, executed = grpc.StatusCode.UNAVAILABLE, True
        details = f"a proxy at {address} ended the stream without a server's answer"
    elif answered := _HTTP_STATUS.search(details):
        executed = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)
        details = f"a proxy at {address} answered HTTP {answered[1]}, so no server answered"
    elif broke:
        details = errors.broken(address, details)
    elif code is grpc.StatusCode.UNAVAILABLE and _NO_CONNECTION.search(details):
        reason = details.rpartition("last error: ")[2]
        details = diagnose(address, credentials, reason) or errors.unreachable(address, reason)
    message = details or code.name  # the server's own words, if none of these cases applies
    return ClientError(code, errors.outcome_unknown(message) if executed and not method.repeatable else message)
