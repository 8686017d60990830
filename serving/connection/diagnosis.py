"""Find out why no call to an address succeeds: connect again, and check the port's protocol and the TLS handshake.

The libraries for gRPC and HTTP describe these failures differently, change the text between versions, and often omit
the cause. With this module both kinds of client report the same sentences.
"""

import socket
import ssl

from hangtag.serving import address as server_address
from hangtag.serving.credentials import Credentials, CredentialsError

TIMEOUT = 2.0
"""Seconds that each connection may take. There are at most three connections, and only one if nothing listens."""
_REQUEST = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)  # OpenSSL's codes for a certificate whose authority is not trusted


def diagnose(address: str, credentials: Credentials) -> str:
    """Say why calls to an address fail although something listens there, and what to do about it.

    Returns "" if nothing listens, if the address does not name exactly one host and port, or if no cause is known. If
    calls go through a proxy, the answer names the proxy, and this function does not connect.

    Args:
        address: the address of the failed calls, HOST:PORT or a URL.
        credentials: the credentials of the failed calls.
    """
    endpoint = server_address.endpoint(address)
    if endpoint is None:
        return ""
    from hangtag.serving.connection import proxy  # a container's health check does not need it

    url = server_address.is_http(address)
    if through := proxy.for_url(address) if url else proxy.for_grpc(address):
        return through.failure(address, "no answer")
    encrypted = address.lower().startswith("https:") if url else credentials.tls_ca is not None
    try:
        socket.create_connection(endpoint, TIMEOUT).close()
        if encrypted:
            return _Handshake(address, endpoint, credentials).problem()
        explanation = "" if url else _plain_http(address, endpoint)
        if not explanation and _speaks_tls(endpoint):
            remedy = f"write https{address[4:]}" if url else "give --tls-ca, the authority that signed its certificate"
            explanation = f"the server at {address} wants TLS: {remedy}"
    except (OSError, UnicodeError, CredentialsError):  # no server answered in time, or a file was deleted
        return ""
    return explanation


def _plain_http(address: str, endpoint: tuple[str, int]) -> str:
    """Say which HTTP port listens at a gRPC address, and what to write instead; "" if the port does not speak HTTP.

    Sends one GET in plain text.
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
    grpc_port = "give --server the gRPC port, which is 8001 unless 'hangtag serve --port' set another"
    if (answer.status, body) == (200, b"live\n"):  # telemetry/http_endpoint.py answers so
        return (
            f"{address} is a hangtag server's port for metrics, and speaks HTTP: {grpc_port}. "
            f"'hangtag top --metrics http://{address}/metrics' shows the metrics"
        )
    return f"the port at {address} speaks HTTP, not gRPC: {grpc_port}, or write http://{address} to call it over HTTP"


class _Handshake:
    """A TLS handshake with a server, with the settings of the failed calls."""

    def __init__(self, address: str, endpoint: tuple[str, int], credentials: Credentials) -> None:
        self._address, self._endpoint, self._credentials = address, endpoint, credentials
        self._url = server_address.is_http(address)

    def problem(self) -> str:
        """Say what is wrong with the handshake; "" if nothing is wrong. Raises OSError if no connection is possible."""
        with socket.create_connection(self._endpoint, TIMEOUT) as connection:
            try:
                with self._context().wrap_socket(connection, server_hostname=self._endpoint[0]) as secured:
                    if not self._url and secured.selected_alpn_protocol() != "h2":
                        return self._no_grpc()
                    return self._hung_up() if _hangs_up(secured, self._url) else ""
            except ssl.SSLCertVerificationError as error:
                return self._certificate_problem(error)
            except ssl.SSLEOFError:
                return ""  # a proxy without a server answers so: it shows nothing about TLS
            except ssl.SSLError as error:
                return self._no_tls(error.reason or str(error))

    def _context(self) -> ssl.SSLContext:
        context = self._credentials.ssl_context(f"https://{self._address}" if not self._url else self._address)
        context = context or ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1" if self._url else "h2"])
        if not self._url:
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # gRPC does not set this flag; Python 3.13 and newer do
        return context

    def _certificate_problem(self, error: ssl.SSLCertVerificationError) -> str:
        problem = f"the certificate of {self._address} is not accepted: {error.verify_message.rstrip('.')}"
        if error.verify_code not in _UNKNOWN_AUTHORITY:
            return problem
        given = "" if self._credentials.tls_ca is None else f", not {self._credentials.tls_ca}"
        return f"{problem}; --tls-ca must name the authority that signed it{given}"

    def _no_tls(self, reason: str) -> str:
        if "ALERT" in reason:  # the server speaks TLS, and refuses the client
            return f"the server at {self._address} refuses TLS ({reason}); {self._certificate_advice()}"
        if self._url:
            return f"the server at {self._address} does not use TLS: write http{self._address[5:]}"
        explanation = _plain_http(self._address, self._endpoint)
        return explanation or f"the server at {self._address} does not use TLS: leave out --tls-ca"

    def _no_grpc(self) -> str:
        return (
            f"the port at {self._address} speaks TLS, but not gRPC: give --server the gRPC port, or write "
            f"https://{self._address} to call it over HTTP"
        )

    def _hung_up(self) -> str:
        return (
            f"the server at {self._address} closes the connection after the TLS handshake, as servers do that verify "
            f"their clients: {self._certificate_advice()}"
        )

    def _certificate_advice(self) -> str:
        own = self._credentials.tls_cert
        if own is None:
            return "give a client certificate (--tls-cert, --tls-key)"
        return (
            f"{own} (--tls-cert) must be signed by an authority that the server trusts (hangtag serve --tls-client-ca)"
        )


def _hangs_up(secured: ssl.SSLSocket, url: bool) -> bool:
    """Return whether the server closes a connection instead of answering. A gRPC server sends its settings unasked."""
    try:
        if url:
            secured.sendall(_REQUEST)
        return secured.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def _speaks_tls(endpoint: tuple[str, int]) -> bool:
    """Return whether a TLS handshake starts, whatever the certificate. Raises OSError if no connection is possible."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(endpoint, TIMEOUT) as connection:
        try:
            with context.wrap_socket(connection):
                return True
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")
