"""Finds a server's proxy in HTTP_PROXY and similar environment variables, for all clients."""

import ipaddress
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import urlsplit

from hangtag.serving import address as server_address
from hangtag.serving.address import AddressError

_SOCKS = ("socks5", "socks5h")
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*\.?|[\da-f]*:[\da-f:.]+", re.ASCII)
_PASSWORD = re.compile(r"^(\w+://)?.*@", re.DOTALL)


@dataclass(frozen=True)
class Proxy:
    """A proxy between a client and a server.

    Attributes:
        variable: the environment variable that names the proxy.
        url: the proxy's URL, including the user and the password if given.
        exempting: the environment variable that exempts hosts from the proxy.
    """

    variable: str
    url: str
    exempting: str = "NO_PROXY"

    def failure(self, address: str, reason: str) -> str:
        """Return the message that no call reached a server, with the reason and without the proxy's password."""
        through = f"through the proxy {_without_password(self.url)}, which {self.variable} names"
        return (
            f"no connection to {address} {through} ({reason}): "
            f"correct or unset {self.variable}, or add the server's host to {self.exempting}"
        )


def for_url(url: str) -> Proxy | None:
    """Return the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names for a URL, unless NO_PROXY exempts its host.

    Raises:
        AddressError: the variable does not contain a proxy's URL, or contains a SOCKS proxy's URL although the package
            ``socksio`` is not installed.
    """
    import urllib.request  # a container's health check over gRPC does not need this module

    proxies = urllib.request.getproxies()
    scheme, _, _ = url.lower().partition("://")
    key = scheme if proxies.get(scheme) else "all"
    value, endpoint = proxies.get(key), server_address.endpoint(url)
    if not value or endpoint is None or _exempt(proxies.get("no", ""), *endpoint):
        return None
    names = (name for name, set_to in os.environ.items() if (name.lower(), set_to) == (f"{key}_proxy", value))
    variable = next(names, "the system's setting")
    read = _read(value)
    kind = "" if read is None else read.partition("://")[0]
    if read is None or kind not in ("http", "https", *_SOCKS):
        raise AddressError(
            f"{variable} is {_without_password(value)!r}, which is not a proxy's URL: write http://HOST:PORT, unset "
            f"{variable}, or add the server's host to NO_PROXY"
        )
    if kind in _SOCKS and find_spec("socksio") is None:
        raise AddressError(
            f"{variable} names a SOCKS proxy, which needs the Python package socksio: install it (pip install "
            f"socksio), name an HTTP proxy, unset {variable}, or add the server's host to NO_PROXY"
        )
    return Proxy(variable, read)


def for_grpc(address: str) -> Proxy | None:
    """Return the proxy through which gRPC's library calls an address. gRPC ignores a proxy that it cannot parse.

    Source: gRPC's doc/environment_variables.md.
    """
    variable = next((name for name in ("grpc_proxy", "https_proxy", "http_proxy") if os.environ.get(name)), None)
    exempting = next((name for name in ("no_grpc_proxy", "no_proxy") if os.environ.get(name)), "no_proxy")
    endpoint = server_address.endpoint(address)
    if variable is None or endpoint is None or _exempt(os.environ.get(exempting, ""), *endpoint):
        return None
    read = _read(os.environ[variable])
    return Proxy(variable, read, exempting) if read and os.environ[variable].startswith("http://") else None


def _read(value: str) -> str | None:
    """Return a proxy's URL with host and port but no path; None if the URL is malformed."""
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        valid = _HOST.fullmatch(url.hostname or "") and url.port != 0 and value.isprintable() and " " not in value
    except ValueError:
        return None
    return f"{url.scheme}://{url.netloc}" if valid else None


def _without_password(value: str) -> str:
    return _PASSWORD.sub(r"\1", value)


def _exempt(exemptions: str, host: str, port: int) -> bool:
    """Return whether an entry of NO_PROXY exempts a host.

    The standard library does not accept *.example.com, [::1] or 10.0.0.0/8 as entries.
    """
    ends = f".{host.lower()}", f".{host.lower()}:{port}"
    for entry in exemptions.lower().split(","):
        name = entry.strip().replace("[", "").replace("]", "")
        with suppress(ValueError):  # the host or the entry is not an IP address
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
        name = name.removeprefix("*").removeprefix(".")
        if entry.strip() == "*" or (name and any(end.endswith(f".{name}") for end in ends)):
            return True
    return False
