"""Explain failed calls: the same failure has the same sentences over gRPC and over HTTP.

The libraries for gRPC and HTTP describe failures of connections differently, change the text between versions, and
often omit the cause. ``_diagnose`` connects again, and checks the port's protocol and the TLS handshake.
"""

import os
import re
import socket
import ssl
from contextlib import suppress
from typing import Any

import grpc

from hangtag.serving import address as server_address
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.method import CONTROL, Method
from hangtag.serving.credentials import Credentials, CredentialsError

# The messages of the system and of asyncio for a port at which nothing listens.
_NOTHING_LISTENS = re.compile("Connection refused|Connect call failed")
# gRPC's message if gRPC cannot connect, or if the server speaks another protocol. "resol" matches "errors
# resolving" and "DNS resolution failed".
_NO_CONNECTION = re.compile("failed to connect|last error: |Failed parsing HTTP/2|handshake failed|resol")
# gRPC's message for a connection that ended during a call. A message is first compared with _NO_CONNECTION.
_BROKEN = re.compile(
    "Socket closed|recvmsg|sendmsg|Connection reset|Connection timed out|Broken pipe|GOAWAY|keepalive|ping timeout"
)
# gRPC's message for an answer with an HTTP status that no gRPC server sends. The statuses 401, 403 and 404 mean that
# nothing was executed; for them, gRPC's code is neither UNAVAILABLE nor UNKNOWN.
_HTTP_STATUS = re.compile(r"http2 header with status: (\d+)")
# The environment variables that gRPC reads (doc/environment_variables.md of gRPC).
_GRPC_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
TIMEOUT = 2.0
"""The time limit in seconds for each connection of ``_diagnose``. It opens at most two connections."""


def too_late(address: str, seconds: float | None, reason: str = "") -> ClientError:
    """Return the error of a call whose deadline has passed, or will pass before the next attempt.

    ``seconds`` is None if the server set the deadline. ``reason`` says why the last attempt failed, if it has failed.
    """
    limit = "in time" if seconds is None else f"within {seconds:g} s"
    message = f"no complete answer from {address} {limit}{f' ({reason})' if reason else ''}"
    return ClientError(grpc.StatusCode.DEADLINE_EXCEEDED, message)


def failed(code: grpc.StatusCode, message: str, method: Method[Any], *, executed: bool) -> ClientError:
    """Return the error of a failed call. ``executed`` says whether the server may have executed the call."""
    if executed and method.path in CONTROL:
        message += (
            "; the server may or may not have executed the call, and the client does not repeat it: "
            "Client.models() or 'hangtag top --once' shows what the server serves"
        )
    return ClientError(code, message)


def unanswered(
    address: str, method: Method[Any], reason: str, connected: bool, credentials: Credentials | None, proxy: str = ""
) -> ClientError:
    """Return the error of a call that got no answer. ``reason`` is the message of the library that made the call.

    ``connected`` is true if there was a connection that broke during the call. ``proxy`` is the environment variable
    that names the proxy. If there is no proxy and ``credentials`` are given, this function looks for the cause, which
    may take seconds.
    """
    message, remedy = "", "start a server with 'hangtag serve', or name another server with --server"
    if proxy:
        reason += f", through the proxy that {proxy} names"
        remedy = f"correct or unset {proxy}, or add the server's host to NO_PROXY"
    elif credentials is not None:
        message = _diagnose(address, credentials)
    if not message and connected:
        message = f"the connection to {address} broke before the answer came ({reason})"
        if proxy:
            message += f"; {remedy}"
        elif server_address.is_http(address):
            message += f"; if it is a gRPC port, write {address.partition('://')[2]} without a scheme"
    elif not message:
        shown = address if _NOTHING_LISTENS.search(reason) and not proxy else f"{address} ({reason})"
        message = f"no server answers at {shown}; {remedy}"
    variable = None if server_address.is_http(address) else next(filter(os.environ.get, _GRPC_PROXIES), None)
    # gRPC uses no proxy for Unix sockets, and ignores a proxy of another scheme than http.
    if variable and os.environ[variable].startswith("http://") and server_address.endpoint(address):
        message += f"; {variable} is set, so gRPC connects through this proxy unless no_proxy lists the server's host"
    return failed(grpc.StatusCode.UNAVAILABLE, message, method, executed=connected)


def of_grpc(
    error: grpc.RpcError, address: str, timeout: float | None, method: Method[Any], credentials: Credentials
) -> ClientError:
    """Convert gRPC's exception for a failed call into a ClientError. The other arguments are those of the call."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return too_late(address, timeout)
    if answered := _HTTP_STATUS.search(details):
        executed = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)
        message = f"a proxy at {address} answered HTTP {answered[1]}, so no server answered"
        return failed(code, message, method, executed=executed)
    if code is grpc.StatusCode.UNAVAILABLE and _NO_CONNECTION.search(details):
        reason = details.rpartition("last error: ")[2]
        return unanswered(address, method, reason, False, credentials)
    if code is grpc.StatusCode.UNAVAILABLE and _BROKEN.search(details):
        return unanswered(address, method, details, True, None)
    # the details are the server's own words
    return failed(code, details or code.name, method, executed=code is grpc.StatusCode.CANCELLED)


def _diagnose(address: str, credentials: Credentials) -> str:
    """Return a sentence that says why calls to an address fail, and what the caller can do.

    Returns "" if nothing listens, if the address does not name exactly one host and port, or if no cause is known.
    """
    url = server_address.is_http(address)
    endpoint = server_address.endpoint(address)
    if endpoint is None:
        return ""
    secure = address.lower().startswith("https:") if url else credentials.tls_ca is not None
    try:
        if not url and not secure and _speaks_http(endpoint):
            return (
                f"the port at {address} speaks HTTP, not gRPC: give --server the gRPC port, which is 8001 unless "
                f"'hangtag serve --port' changed it, or write http://{address} to call it over HTTP"
            )
        reason = _handshake(address, endpoint, credentials)
        if secure:
            return reason
    except ssl.SSLEOFError:
        return ""  # a proxy that reaches no server causes the same exception, so the cause is not known
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "").rstrip(".") or error.reason or str(error)
        if secure:
            return _no_tls(address, reason)
        if not isinstance(error, ssl.SSLCertVerificationError) and "ALERT" not in reason:
            return ""  # the server uses no TLS, like the client
    except (socket.gaierror, UnicodeError):  # UnicodeError: DNS cannot contain the name
        return f"the host of {address} is unknown; name the server with --server {'http://' * url}HOST:PORT"
    except (OSError, CredentialsError):  # no server answered in time, or a TLS file was deleted
        return ""
    remedy = f"write https{address[4:]}" if url else "--tls-ca must name the authority that signed its certificate"
    return f"the server at {address} requires TLS: {remedy}"


def _speaks_http(endpoint: tuple[str, int]) -> bool:
    """Return whether a port answers an HTTP request without TLS. Raises OSError if no connection is possible."""
    with socket.create_connection(endpoint, TIMEOUT) as connection, suppress(OSError):
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        return connection.recv(5) == b"HTTP/"
    return False


def _no_tls(address: str, reason: str) -> str:
    return (
        f"no TLS connection to {address} ({reason}): check that the server uses TLS, that --tls-ca names the authority "
        "that signed its certificate, and that it trusts your client certificate (--tls-cert, --tls-key)"
    )


def _handshake(address: str, endpoint: tuple[str, int], credentials: Credentials) -> str:
    """Make a TLS handshake with a client's TLS files. Raises SSLError with the reason if the handshake fails.

    Returns a sentence that explains why gRPC calls fail although the server accepts the handshake; otherwise "".
    """
    url = server_address.is_http(address)
    context = credentials.ssl_context(address if url else f"https://{address}") or ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1" if url else "h2"])
    if not url:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # gRPC does not set this flag; Python 3.13 and newer do
    with (
        socket.create_connection(endpoint, TIMEOUT) as connection,
        context.wrap_socket(connection, server_hostname=endpoint[0]) as secured,
        suppress(TimeoutError, ConnectionError),  # a server need not send anything before a request
    ):
        if not url and secured.selected_alpn_protocol() != "h2":
            return (
                f"the port at {address} speaks TLS, but not gRPC: give --server the gRPC port, or write "
                f"https://{address} to call it over HTTP"
            )
        # A server that refuses the client's certificate sends a TLS alert, for which recv() raises SSLError, or, like
        # the gRPC library, closes the connection. HTTP servers also close a connection on which no request arrives.
        if not secured.recv(1) and not url:
            return _no_tls(address, "the server closes the connection after the handshake")
    return ""
