"""Turn gRPC's failures into errors that say what to check."""

import re
from typing import Any

import grpc

from hangtag.serving.connection.diagnosis import diagnose
from hangtag.serving.connection.errors import UNKNOWN_OUTCOME, ClientError
from hangtag.serving.connection.method import Method
from hangtag.serving.credentials import Credentials

# gRPC's words where it has no connection to call on: to one server, to several, and to one of another protocol.
_NO_CONNECTION = re.compile("failed to connect|last error: |Failed parsing HTTP/2|handshake failed")
# And for a server that nothing is to be learnt from by connecting again: it refuses connections, or is silent.
_SILENT = re.compile("connect to remote host|tcp handshaker|timed out|[Tt]imeout|unreachable|No route")
# And for a host without an address: "errors resolving", "DNS resolution failed".
_NO_ADDRESS = "resol"
# And for an answer that is none of a gRPC server's. UNAVAILABLE stands for the statuses 429, 502, 503 and 504, and
# UNKNOWN for 500 and others; 401, 403 and 404 have codes of their own.
_HTTP_STATUS = re.compile(r"http2 header with status: (\d+)")
# And for a stream whose other side answered in HTTP alone while the client could still send; the code is INTERNAL.
_ANSWERED_IN_HTTP = "RST_STREAM with error code 0"
# The words of the native transport's library for a connection that it has ended as an attack: see `resets`.
_TOO_MANY_RESETS = "too_many_resets"
# And for a connection that ends under a call. Where none was made, _NO_CONNECTION stands before the same words.
_BROKEN = re.compile(
    "Socket closed|recvmsg|sendmsg|Connection reset|Connection timed out|Broken pipe|GOAWAY|keepalive|ping timeout"
)


def explained(
    error: grpc.RpcError, address: str, timeout: float | None, method: Method[Any], credentials: Credentials
) -> ClientError:
    """Return the error to raise for a failed call.

    Where there was no connection, it makes others to find out why, which may take seconds: see ``diagnose``.

    Args:
        error: the failed call.
        address: where the call went.
        timeout: the call's deadline in seconds.
        method: what was called.
        credentials: what the call used.
    """
    code, details = error.code(), error.details() or ""
    answer_lost = _answer_lost(code, details)
    if code is grpc.StatusCode.INTERNAL and _ANSWERED_IN_HTTP in details:
        code = grpc.StatusCode.UNAVAILABLE
        details = f"a proxy at {address} ended the stream without the answer of a server"
    elif code is grpc.StatusCode.UNAVAILABLE:
        details = _unavailable(details, address, credentials)
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
    return not _NO_CONNECTION.search(details) and bool(_BROKEN.search(details))


def _unavailable(details: str, address: str, credentials: Credentials) -> str:
    if status := _HTTP_STATUS.search(details):
        return f"a proxy at {address} answered HTTP {status[1]} in place of a server"
    if _TOO_MANY_RESETS in details:
        return (
            f"the server at {address} ended the connection, because too many calls on it were cancelled, "
            "or missed their deadline, as soon as they had begun"
        )
    if _broke(details):
        return f"the connection to {address} broke before the answer came ({details})"
    no_address = _NO_ADDRESS in details
    if not no_address and not _NO_CONNECTION.search(details):
        return details  # the server's own words
    from hangtag.serving.connection import proxy  # here, because a container's health check has no use for it

    reason = details.rpartition("last error: ")[2]
    if through := proxy.for_grpc(address):
        return through.failure(address, reason)
    if no_address:
        return f"the host of {address} is unknown; name the server with --server, as HOST:PORT"
    if not _SILENT.search(reason) and (explanation := diagnose(address, credentials)):
        return explanation
    shown = address if "Connection refused" in reason else f"{address} ({reason})"
    return f"no server answers at {shown}; start one with 'hangtag serve', or name another with --server"
