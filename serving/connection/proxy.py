"""Finds a server's proxy in environment variables, or, for HTTP, also in the settings of macOS or Windows."""

import ipaddress
import os
import urllib.request
from contextlib import suppress

from hangtag.serving import address as server_address


def proxy_of(address: str) -> tuple[str, str]:
    """Return the environment variable that names the proxy for calls to an address, and the variable's value.

    Both are "" if calls use no proxy. gRPC's own doc/environment_variables.md lists the variables that gRPC reads.
    """
    endpoint = server_address.endpoint(address)
    if endpoint is None:
        return "", ""
    if server_address.is_http(address):
        proxies = urllib.request.getproxies()
        scheme = address.lower().partition("://")[0]
        key = scheme if scheme in proxies else "all"
        if key not in proxies or urllib.request.proxy_bypass(f"{endpoint[0]}:{endpoint[1]}"):
            return "", ""
        set_here = (
            name for name, value in os.environ.items() if (name.lower(), value) == (f"{key}_proxy", proxies[key])
        )
        return next(set_here, f"{key.upper()}_PROXY"), proxies[key]
    variable, exempting = (
        next((name for name in names if os.environ.get(name)), "")
        for names in (("grpc_proxy", "https_proxy", "http_proxy"), ("no_grpc_proxy", "no_proxy"))
    )
    value = os.environ.get(variable, "")  # gRPC ignores all proxies except http://
    used = value.startswith("http://") and not _grpc_exempts(endpoint[0], os.environ.get(exempting, ""))
    return (variable, value) if used else ("", "")


def _grpc_exempts(host: str, entries: str) -> bool:
    """Return whether gRPC uses no proxy for a host: it ends with an entry, or is an address in an entry's network."""
    for entry in map(str.strip, entries.lower().split(",")):
        with suppress(ValueError):  # the host is not an IP address, or the entry is not a network
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        if entry and host.lower().endswith(entry):
            return True
    return False
