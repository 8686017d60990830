"""Check whether a text can be the address of a server, and read the host and the port from the address."""

import re
from urllib.parse import urlsplit

from hangtag.errors import UserError

DEFAULT = "127.0.0.1:8001"
DEFAULT_URL = "http://127.0.0.1:8000"
_HOST_PORT = re.compile(r"(?P<host>\[[^\[\]\s/]+\]|[^\[\]\s/:]+):(?P<port>\d{1,5})")
_HTTP_URL = re.compile(r"https?://(\[[^\[\]\s/]+\]|[^\[\]\s/:?#@]+)(:(?P<port>\d{1,5}))?(/[^\s?#]*)?", re.IGNORECASE)
_ONE_SERVER = re.compile(r"^(dns:///|dns:|ipv4:|ipv6:)")  # a prefix of HOST:PORT
# URI schemes of gRPC's name resolvers, as in dns:///hangtag.default:8001 and unix:/run/hangtag.sock.
_RESOLVED = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "xds:")


class AddressError(UserError, ValueError):
    """A text is not the address of a server."""


def is_http(address: str) -> bool:
    """Return whether an address begins with http:// or https://, which means that calls go over HTTP."""
    return address.lower().startswith(("http://", "https://"))


def require(address: str) -> None:
    """Raise AddressError, with advice on what to write, if the text is not an address of a server.

    The address is HOST:PORT, or an address for one of gRPC's name resolvers, such as ``dns:///HOST:PORT``. An address
    for HTTP is a URL with http:// or https://, a host, optionally a port, and optionally a path.
    """
    if is_http(address):
        match = _HTTP_URL.fullmatch(address)
        if match is None or not 0 < int(match["port"] or 80) < 1 << 16:
            raise AddressError(f"{address!r} is not a server's URL: write http://HOST:PORT, for example {DEFAULT_URL}")
        return
    if address.startswith(_RESOLVED):
        return
    # gRPC would look up "8001" as a host, and turn port 99999 into 34463.
    match = _HOST_PORT.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 1 << 16:
        hint = " without a scheme (for TLS give --tls-ca)" if "://" in address else ""
        raise AddressError(f"{address!r} is not an address: write HOST:PORT{hint}, for example {DEFAULT}")


def endpoint(address: str) -> tuple[str, int] | None:
    """Return the host and the port of a valid address, or None if the address names several servers or a Unix
    socket."""
    if is_http(address):
        url = urlsplit(address)
        return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    match = _HOST_PORT.fullmatch(_ONE_SERVER.sub("", address))
    return None if match is None else (match["host"].strip("[]"), int(match["port"]))
