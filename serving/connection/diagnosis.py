"""Find out why no call to an address succeeds: connect again, and check the port's protocol and the TLS handshake.

The libraries for gRPC and HTTP describe these failures differently, change the text between versions, and often omit
the cause. With this module, clients over gRPC and over HTTP report the same sentences.
"""

import socket
import ssl

from hangtag.serving import address as server_address
from hangtag.serving.credentials import Credentials, CredentialsError

TIMEOUT = 2.0
"""The time limit of each connection in seconds. ``diagnose`` opens at most three connections, and only one if nothing
listens."""
_REQUEST = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)  # OpenSSL's codes for a certificate whose authority is not trusted


def diagnose(address: str, credentials: Credentials, reason: str = "no answer") -> str:
    """Return a sentence that says why calls to an address fail, and what the caller can do.

    Returns "" if nothing listens, if the address does not name exactly one host and port, or if no cause is known. If
    calls go through a proxy, the sentence names the proxy, and this function opens no connection.

    Args:
        address: the address of the failed calls, HOST:PORT or a URL.
        credentials: the credentials of the failed calls.
        reason: the failure in the words of the library that made the calls.
    """
    from hangtag.serving.connection import proxy  # a container's health check does not need this module

    url = server_address.is_http(address)
    if through := proxy.for_url(address) if url else proxy.for_grpc(address):
        return through.failure(address, reason)
    endpoint = server_address.endpoint(address)
    if endpoint is None:
        return ""
    encrypted = address.lower().startswith("https:") if url else credentials.tls_ca is not None
    try:
        socket.create_connection(endpoint, TIMEOUT).close()
        if encrypted:
            return _handshake_problem(address, endpoint, credentials)
        explanation = "" if url else _plain_http(address, endpoint)
        if not explanation and _speaks_tls(endpoint):
            remedy = (
                f"write https{address[4:]}" if url else "--tls-ca must name the authority that signed its certificate"
            )
            explanation = f"the server at {address} requires TLS: {remedy}"
    except (socket.gaierror, UnicodeError):  # UnicodeError: DNS cannot contain the name
        return f"the host of {address} is unknown; name the server with --server {'http://' * url}HOST:PORT"
    except (OSError, CredentialsError):  # no server answered in time, or a TLS file was deleted
        return ""
    return explanation


def _plain_http(address: str, endpoint: tuple[str, int]) -> str:
    """Return the message for a gRPC address whose port speaks HTTP; "" if the port does not speak HTTP.

    To find out, this function sends one GET without TLS.
    """
    # Imported here, because a container's health check loads this module every few seconds.
    import http.client

    connection = http.client.HTTPConnection(*endpoint, timeout=TIMEOUT)
    try:
        connection.request("GET", "/v2/health/live")
        answer = connection.getresponse()
        body = answer.read(100)
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
    grpc_port = "give --server the gRPC port, which is 8001 unless 'hangtag serve --port' changed it"
    if (answer.status, body) == (200, b"live\n"):  # the answer of telemetry/http_endpoint.py
        return (
            f"{address} is a hangtag server's port for metrics, and speaks HTTP: {grpc_port}. "
            f"'hangtag top --metrics http://{address}/metrics' shows the metrics"
        )
    return f"the port at {address} speaks HTTP, not gRPC: {grpc_port}, or write http://{address} to call it over HTTP"


def _handshake_problem(address: str, endpoint: tuple[str, int], credentials: Credentials) -> str:
    """Say why a TLS handshake with the settings of the failed calls fails; "" if nothing is wrong.

    Raises OSError if no connection is possible.
    """
    url = server_address.is_http(address)
    context = credentials.ssl_context(address if url else f"https://{address}") or ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1" if url else "h2"])
    if not url:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # gRPC does not set this flag; Python 3.13 and newer do
    own = credentials.tls_cert
    advice = "give a client certificate (--tls-cert, --tls-key)"
    if own is not None:
        advice = (
            f"{own} (--tls-cert) must be signed by an authority that the server trusts (hangtag serve --tls-client-ca)"
        )
    with socket.create_connection(endpoint, TIMEOUT) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=endpoint[0]) as secured:
                if not url and secured.selected_alpn_protocol() != "h2":
                    return (
                        f"the port at {address} speaks TLS, but not gRPC: give --server the gRPC port, or write "
                        f"https://{address} to call it over HTTP"
                    )
                if _hangs_up(secured, url):
                    return (
                        f"the server at {address} closes the connection after the TLS handshake, probably because it "
                        f"verifies its clients: {advice}"
                    )
                return ""
        except ssl.SSLCertVerificationError as error:
            problem = f"the certificate of {address} is not accepted: {error.verify_message.rstrip('.')}"
            if error.verify_code not in _UNKNOWN_AUTHORITY:
                return problem
            given = "" if credentials.tls_ca is None else f", not {credentials.tls_ca}"
            return f"{problem}; --tls-ca must name the authority that signed it{given}"
        except ssl.SSLEOFError:
            return ""  # a proxy that reaches no server also ends the connection like this, so the cause is not known
        except ssl.SSLError as error:
            reason = error.reason or str(error)
            if "ALERT" in reason:  # the server uses TLS, but refuses the client
                return f"the server at {address} refuses TLS ({reason}); {advice}"
            if url:
                return f"the server at {address} does not use TLS: write http{address[5:]}"
            return _plain_http(address, endpoint) or f"the server at {address} does not use TLS: leave out --tls-ca"


def _hangs_up(secured: ssl.SSLSocket, url: bool) -> bool:
    """Return whether the server closes a connection instead of sending data. A gRPC server sends its settings first."""
    try:
        if url:
            secured.sendall(_REQUEST)
        return secured.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def _speaks_tls(endpoint: tuple[str, int]) -> bool:
    """Return whether the server starts a TLS handshake. Its certificate is not verified. Raises OSError if no
    connection is possible."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(endpoint, TIMEOUT) as connection:
        try:
            with context.wrap_socket(connection):
                return True
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")
