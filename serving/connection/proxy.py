"""Finds a server's proxy in HTTP_PROXY and similar environment variables, for all clients."""

import ipaddress
import os
import re
from collections.abc import Sequence
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

    Raises:
        AddressError: the variable does not contain a proxy's URL, or contains a SOCKS proxy's URL although the package
            ``socksio`` is not installed.
    """
    variable = f"{url.lower().partition('://')[0]}_proxy"
    named = _named(url, (variable, variable.upper(), "all_proxy", "ALL_PROXY"), ("no_proxy", "NO_PROXY"))
    if named is None:
        return None
    read = Proxy(named.variable, _read(named.url) or "", "NO_PROXY")
    kind = read.url.partition("://")[0]
    if kind not in ("http", "https", *_SOCKS):
        shown = f"{read.variable} is {_without_password(named.url)!r}"
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
    named = _named(address, ("grpc_proxy", "https_proxy", "http_proxy"), ("no_grpc_proxy", "no_proxy"))
    return named if named and named.url.startswith("http://") and _read(named.url) else None


def _named(address: str, variables: Sequence[str], exempting: Sequence[str]) -> Proxy | None:
    """Return the proxy in the first variable that is set; None if a variable of ``exempting`` lists the host."""
    variable, exempt = (next((name for name in names if os.environ.get(name)), "") for names in (variables, exempting))
    endpoint = server_address.endpoint(address)
    if not variable or endpoint is None or _exempt(os.environ.get(exempt, ""), *endpoint):
        return None
    return Proxy(variable, os.environ[variable], exempt or exempting[-1])


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
