"""What the connections for threads and for asyncio have in common: settings, one attempt's request, and its answer."""

import ssl
from typing import Any

import httpx2

from hangtag.serving import address as server_address
from hangtag.serving.connection import errors, proxy
from hangtag.serving.connection.costs import keep_costs
from hangtag.serving.connection.diagnosis import diagnose
from hangtag.serving.connection.http import failures
from hangtag.serving.connection.http.codec.routes import ROUTES
from hangtag.serving.connection.http.codec.wire import HttpAnswer, HttpRequest
from hangtag.serving.connection.method import Method, Response
from hangtag.serving.connection.options import ConnectionOptions
from hangtag.serving.credentials import Credentials, CredentialsError

# One connection for each call in flight: threads and tasks do not wait for each other.
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=256)


class HttpSession:
    """The settings of one connection.

    Args:
        address: http://HOST:PORT or https://HOST:PORT, perhaps with a path that all requests begin with.
        credentials: a token, and for https:// the authorities to trust instead of the system's.
        options: the largest answer.

    Raises:
        AddressError: the address is no URL of a server, or the variable that names its proxy is no URL of one.
        CredentialsError: a TLS file cannot be read, or one is given for http://.

    Attributes:
        proxy: what stands between the client and the server; None for a direct connection.
        verify: what https:// is verified with; False for http://.
    """

    def __init__(self, address: str, credentials: Credentials, options: ConnectionOptions) -> None:
        server_address.require(address)
        try:
            httpx2.URL(address)
        except httpx2.InvalidURL as error:
            raise server_address.AddressError(f"{address!r} is no URL of a server: {error}") from error
        self.address = address
        self._credentials = credentials
        self._limit = options.max_message_bytes
        self._answered = False
        self.proxy = proxy.for_url(address)
        self.verify: ssl.SSLContext | bool = credentials.ssl_context(address) or _system_context(address)

    def client_settings(self) -> dict[str, Any]:
        """Return the arguments for httpx2's clients, apart from their transport."""
        return {
            "base_url": self.address.rstrip("/") + "/",
            # Answers are hardly ever larger than what compressing them costs.
            "headers": {"accept-encoding": "identity"},
        }

    def encode(self, method: Method[Any], message: Any, seconds: float | None) -> HttpRequest:
        """Return the request of a call whose deadline is in so many seconds; None is no deadline."""
        timeout = None if seconds is None else min(max(round(seconds * 1e6), 1), 2**63 - 1)
        return ROUTES[method.path].encode(message, timeout)

    def headers(self, request: HttpRequest) -> dict[str, str]:
        """Return the headers to send, the token among them. Raises CredentialsError."""
        return {**request.headers, **dict(self._credentials.metadata())}

    def require_size(self, size: int) -> None:
        """Refuse an answer that is too large. Raises ClientError."""
        if self._limit is not None and size > self._limit:
            raise failures.too_large(size, self._limit)

    def broken(self, error: httpx2.TransportError | UnicodeError, method: Method[Any]) -> errors.ClientError:
        """Return the error of a call that got no answer. It may take seconds to find the cause: see ``diagnose``."""
        if self.proxy is not None:
            explanation = self.proxy.failure(self.address, str(error) or type(error).__name__)
        elif failures.host_is_unknown(error):
            explanation = f"the host of {self.address} is unknown; name the server with --server, as http://HOST:PORT"
        elif self._answered and not isinstance(error, httpx2.ConnectError):
            explanation = ""  # the protocol and the certificates are right, and this connection broke
        else:
            explanation = diagnose(self.address, self._credentials)
        return failures.broken(error, self.address, method, explanation)

    def decode(self, method: Method[Response], message: Any, request: HttpRequest, answer: HttpAnswer) -> Response:
        """Read the answer to a call. Raises ClientError for a failure, and for what is not of the protocol."""
        self._answered = True
        route = ROUTES[method.path]
        if not route.answers(answer, message):
            raise failures.refused(answer, method, request, self.address)
        with errors.reading(self.address):
            response: Response = route.decode(answer, message)
            keep_costs(response, answer.headers.items())
        return response


def _system_context(address: str) -> ssl.SSLContext | bool:
    """What verifies a server where no ``tls_ca`` is given. Raises CredentialsError where it cannot be read."""
    if not address.lower().startswith("https:"):
        return False
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        raise CredentialsError(
            f"the authorities that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read ({error.strerror or error}): "
            "correct or unset the variable, or give --tls-ca"
        ) from error
