"""Finds a server's proxy in environment variables, or, for HTTP, also in the settings of macOS or Windows."""

import os
import urllib.request

from hangtag.serving import address as server_address


def proxy_of(address: str) -> tuple[str, str]:
    """Return the environment variable that names the proxy for calls to an address, and the variable's value.

    Both are "" if calls use no proxy. gRPC's own doc/environment_variables.md lists the variables that gRPC reads.
    """
    endpoint = server_address.endpoint(address)
    if endpoint is None or urllib.request.proxy_bypass(f"{endpoint[0]}:{endpoint[1]}"):
        return "", ""
    if server_address.is_http(address):
        proxies = urllib.request.getproxies()
        scheme = address.lower().partition("://")[0]
        key = scheme if scheme in proxies else "all"
        return (f"{key.upper()}_PROXY", proxies[key]) if key in proxies else ("", "")
    variable = next((name for name in ("grpc_proxy", "https_proxy", "http_proxy") if os.environ.get(name)), "")
    value = os.environ.get(variable, "")
    return (variable, value) if value.startswith("http://") else ("", "")  # gRPC ignores other proxies
