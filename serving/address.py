"""The address of a server: whether a text can be one, and whether HTTP is spoken where gRPC was expected."""

import re

from hangtag.errors import UserError

DEFAULT = "127.0.0.1:8001"
DEFAULT_URL = "http://127.0.0.1:8000"
HTTP_TIMEOUT = 2.0
_GRPC_URL = re.compile(r"(?P<scheme>grpcs?)://(?P<address>[^/?#]*)", re.IGNORECASE)
_HOST_PORT = re.compile(r"(?P<host>\[[^\[\]\s/]+\]|[^\[\]\s/:]+):(?P<port>\d{1,5})")
_HTTP_URL = re.compile(r"https?://(\[[^\[\]\s/]+\]|[^\[\]\s/:?#@]+)(:(?P<port>\d{1,5}))?(/[^\s?#]*)?", re.IGNORECASE)
# The name resolvers of gRPC: dns:///hangtag.default:8001, unix:/run/hangtag.sock.
_RESOLVED = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "xds:")


class AddressError(UserError, ValueError):
    """A text is not the address of a server."""


def is_http(address: str) -> bool:
    """Return whether an address asks for HTTP: it begins with http:// or https://."""
    return address.lower().startswith(("http://", "https://"))


def require(address: str) -> None:
    """Check that a client can look for a server by this text.

    Args:
        address: HOST:PORT, or an address for one of gRPC's name resolvers, such as ``dns:///HOST:PORT``; for HTTP a
            URL: http:// or https://, a host, perhaps a port, and perhaps a path.

    Raises:
        AddressError: it is another kind of URL, or has no port or one that cannot be. The message says what to write.
    """
    if is_http(address):
        match = _HTTP_URL.fullmatch(address)
        if match is None or not 0 < int(match["port"] or 80) < 1 << 16:
            raise AddressError(f"{address!r} is no URL of a server: write http://HOST:PORT, for example {DEFAULT_URL}")
        return
    if url := _GRPC_URL.match(address):
        raise AddressError(_url_problem(address, url["scheme"].lower(), url["address"]))
    if address.startswith(_RESOLVED):
        return
    # gRPC would look up "8001" as a host, and turn port 99999 into 34463.
    match = _HOST_PORT.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 1 << 16:
        raise AddressError(f"{address!r} is no address: write HOST:PORT, for example {DEFAULT}")


def authority(address: str) -> str:
    """Return the name that calls to several servers carry, the first one's address; "" for any other address.

    gRPC would send the whole list, which is no authority of a URL: the native transport refuses such calls.
    """
    first, several, _ = address.removeprefix("ipv4:").removeprefix("ipv6:").partition(",")
    return first if several else ""


def _url_problem(text: str, scheme: str, address: str) -> str:
    wanted = address if _HOST_PORT.fullmatch(address) else f"{address or 'HOST'}:PORT"
    message = f"{text!r} is a URL, but a gRPC server is named without a scheme or a path: write {wanted}"
    return f"{message}; for TLS add --tls-ca" if scheme == "grpcs" else message


def http_explanation(address: str) -> str:
    """Say which HTTP port listens at an address where gRPC failed, and which option takes it; "" where none does.

    It sends one GET in plain text, and waits for at most HTTP_TIMEOUT seconds.
    """
    # Imported here, because a container's health check loads this module every few seconds.
    import http.client

    match = _HOST_PORT.fullmatch(address)
    if match is None:
        return ""
    connection = http.client.HTTPConnection(match["host"].strip("[]"), int(match["port"]), timeout=HTTP_TIMEOUT)
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
