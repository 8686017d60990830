"""Turn failures of HTTP calls into the same errors as failures of gRPC calls."""

import ssl
from typing import Any, TypeAlias, get_args

import grpc
import httpcore2

from hangtag.serving.connection import errors
from hangtag.serving.connection.diagnosis import diagnose
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.http.http_methods import HttpAnswer, HttpRequest
from hangtag.serving.connection.method import CONTROL, Method
from hangtag.serving.credentials import Credentials

Broken: TypeAlias = (
    httpcore2.NetworkError
    | httpcore2.TimeoutException
    | httpcore2.ProtocolError
    | httpcore2.ProxyError
    | UnicodeError
    | ssl.SSLError
)
"""The exceptions that httpcore2 raises for a call that got no answer. TimeoutException means that the operating system
gave up the connection. UnicodeError means that DNS cannot contain the host name. SSLError means that a TLS alert
arrived late; only asyncio raises this exception."""
BROKEN = get_args(Broken)
_UNCONNECTED = (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.ProxyError, UnicodeError)
_QUOTED = 200  # an error quotes at most this many characters of an answer that does not follow the protocol


def refused(answer: HttpAnswer, method: Method[Any], request: HttpRequest, address: str) -> ClientError:
    """Return the error for an answer whose HTTP status reports a failure."""
    code = answer.code
    if code is grpc.StatusCode.INVALID_ARGUMENT and method.path in CONTROL:
        code = grpc.StatusCode.FAILED_PRECONDITION  # a server sends HTTP status 400 for both codes
    if answer.error:
        return ClientError(code, answer.error)
    if answer.status in (404, 405, 501):
        return ClientError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"the server at {address} has no /{request.path.partition('?')[0]}; is this the address of hangtag's HTTP "
            "port ('hangtag serve --http-port', by default 8000)?",
        )
    if 300 <= answer.status < 400:
        return ClientError(code, f"{address} redirects to {answer.headers.get('location')}; use that address")
    quoted = answer.body[:_QUOTED].decode(errors="replace").strip()
    message = f"{address} answered {answer.status} {quoted}".rstrip()
    return ClientError(code, message if method.repeatable else errors.outcome_unknown(message))


def reason(error: ClientError | Broken) -> str:
    """Return the text of a failure."""
    return str(error) or type(error).__name__


def broken(error: Broken, address: str, method: Method[Any], credentials: Credentials | None) -> ClientError:
    """Return the error of a call that got no answer.

    Args:
        error: what httpcore2 raised.
        address: the address that was called.
        method: the called method.
        credentials: the credentials of the call, with which ``diagnose`` looks for the cause; None to skip the search.
    """
    explanation = "" if credentials is None else diagnose(address, credentials, reason(error))
    advice = f"if it is a gRPC port, write {address.partition('://')[2]} without a scheme"
    connected = not isinstance(error, _UNCONNECTED)
    if explanation:
        message = explanation
    elif not connected:
        message = errors.unreachable(address, reason(error))
    elif isinstance(error, httpcore2.RemoteProtocolError) and "illegal" in str(error):
        message, connected = f"the port at {address} does not speak HTTP/1.1; {advice}", False
    else:
        message = f"{errors.broken(address, reason(error))}; {advice}"
    if connected and not method.repeatable:
        message = errors.outcome_unknown(message)
    return ClientError(grpc.StatusCode.UNAVAILABLE, message)
