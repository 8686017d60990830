"""Finds a server's proxy, for all clients, in HTTP_PROXY and similar environment variables or the system's settings."""

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
    """A proxy between a client and a server. Its URL may include a user and a password.

    ``variable`` is the environment variable that names the proxy, or "the system's setting", and ``exempting`` the
    variable that exempts hosts from the proxy.
    """

    variable: str
    url: str
    exempting: str

    def failure(self, address: str, reason: str) -> str:
        """Return the error message for a call that reached no server: with the reason, without the proxy's password."""
        through = f"through the proxy {_without_password(self.url)}, which {self.variable} names"
        return f"no connection to {address} {through} ({reason}): correct {self._remedy}"

    @property
    def _remedy(self) -> str:
        return f"or unset {self.variable}, or add the server's host to {self.exempting}"


def for_url(url: str) -> Proxy | None:
    """Return the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names for a URL, unless NO_PROXY exempts its host.

    Python's library reads the variables. If none is set, the library reads the settings of macOS or Windows. A CGI
    script ignores HTTP_PROXY in upper case, which a request's header Proxy sets (CVE-2016-1000110). Raises AddressError
    if the variable does not contain a proxy's URL, or a SOCKS proxy's URL needs a package that is not installed.
    """
    import urllib.request  # here, because the health check over gRPC does not need this module

    proxies = urllib.request.getproxies()
    scheme = url.lower().partition("://")[0]
    key = scheme if scheme in proxies else "all"
    value = proxies.get(key)
    if value is None or _exempt(url, proxies.get("no", "")):
        return None
    variables = (name for name, text in os.environ.items() if (name.lower(), text) == (f"{key}_proxy", value))
    read = Proxy(next(variables, "the system's setting"), _read(value) or "", "NO_PROXY")
    kind = read.url.partition("://")[0]
    if kind not in ("http", "https", *_SOCKS):
        shown = f"{read.variable} is {_without_password(value)!r}"
        raise AddressError(f"{shown}, which is not a proxy's URL: write http://HOST:PORT, {read._remedy}")
    if kind in _SOCKS and find_spec("socksio") is None:
        raise AddressError(
            f"{read.variable} names a SOCKS proxy, which needs the Python package socksio: install it (pip install "
            f"socksio), name an HTTP proxy, {read._remedy}"
        )
    return read


def for_grpc(address: str) -> Proxy | None:
    """Return the proxy through which gRPC's library calls an address. gRPC ignores a proxy that it cannot parse.

    Source: gRPC's doc/environment_variables.md.
    """
    variable = next((name for name in ("grpc_proxy", "https_proxy", "http_proxy") if os.environ.get(name)), "")
    exempting = next((name for name in ("no_grpc_proxy", "no_proxy") if os.environ.get(name)), "no_proxy")
    value = os.environ.get(variable, "")
    if not value.startswith("http://") or not _read(value) or _exempt(address, os.environ.get(exempting, "")):
        return None
    return Proxy(variable, value, exempting)


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


def _exempt(address: str, exemptions: str) -> bool:
    """Return whether no host can be read from an address, or an entry of NO_PROXY exempts its host.

    The standard library does not accept *.example.com, [::1] or 10.0.0.0/8 as entries.
    """
    endpoint = server_address.endpoint(address)
    if endpoint is None:
        return True
    host = endpoint[0].lower()
    for entry in exemptions.lower().split(","):
        name = entry.strip().replace("[", "").replace("]", "")
        with suppress(ValueError):  # the host or the entry is not an IP address
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
        name = name.removeprefix("*").removeprefix(".")
        if entry.strip() == "*" or (name and f".{host}:{endpoint[1]}".endswith((f".{name}", f".{name}:{endpoint[1]}"))):
            return True
    return False
