"""Turn gRPC's failures into errors that say what to check."""

import re

import grpc

from hangtag.serving import address as server_address
from hangtag.serving.connection.errors import ClientError

# gRPC's words for a port that answers in another protocol, to a call without TLS and to one with it.
_NOT_GRPC = ("Failed parsing HTTP/2", "handshake failed")
# And for an answer that is none of a gRPC server's. UNAVAILABLE stands for the statuses 429, 502, 503 and 504.
_HTTP_STATUS = re.compile(r"http2 header with status: (\d+)")


def explained(error: grpc.RpcError, address: str, timeout: float | None) -> ClientError:
    """Return the error to raise for a failed call.

    It may ask the port for HTTP/1.1, which takes up to ``address.HTTP_TIMEOUT`` seconds.

    Args:
        error: the failed call.
        address: where the call went.
        timeout: the call's deadline in seconds.
    """
    code, details = error.code(), error.details() or ""
    speaks_no_grpc = code is grpc.StatusCode.UNAVAILABLE and any(words in details for words in _NOT_GRPC)
    if speaks_no_grpc and (explanation := server_address.http_explanation(address)):
        details = explanation
    elif code is grpc.StatusCode.UNAVAILABLE:
        details = _unavailable(details, address)
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = f"no answer from {address} within {timeout:g} s"
    return ClientError(code, details or code.name)


def _unavailable(details: str, address: str) -> str:
    if "handshake failed" in details:
        return f"no TLS with {address}; is --tls-ca its authority, and does it serve TLS? {_reason(details)}"
    if status := _HTTP_STATUS.search(details):
        return f"a proxy at {address} answered HTTP {status[1]}: no server behind it took the call"
    if "Socket closed" in details:
        return (
            f"the server at {address} closed the connection; "
            "does it want TLS (--tls-ca), or a client certificate (--tls-cert, --tls-key)?"
        )
    if "connect" in details.lower():
        return f"no server answers at {address}; start one with 'hangtag serve', or name another with --server"
    if "resol" in details:  # "errors resolving", "DNS resolution failed"
        return f"the host of {address} is unknown; name the server with --server, as HOST:PORT"
    return details


def _reason(details: str) -> str:
    """OpenSSL's reason for a failed handshake, taken from gRPC's sentence."""
    reason = re.search(r"OPENSSL_internal:(\w+)", details)
    return f"({reason[1].replace('_', ' ').lower()})" if reason else f"({details})"
