"""Finds the proxy of a server in environment variables, or in the settings of macOS or Windows."""

import os
import urllib.request
from importlib.util import find_spec

import httpcore2
import httpx2

from hangtag.serving import address as server_address


def proxy_of(address: str) -> tuple[str, httpcore2.Proxy | None]:
    """Return the environment variable that names the proxy for calls to a URL, and the proxy. Raises AddressError.

    Returns "" and None if calls use no proxy.
    """
    host, port = server_address.endpoint(address) or ("", 0)
    proxies = urllib.request.getproxies()
    scheme = address.lower().partition("://")[0]
    key = scheme if scheme in proxies else "all"
    if key not in proxies or urllib.request.proxy_bypass(f"{host}:{port}"):
        return "", None
    variable, value = f"{key}_proxy", proxies[key]
    if variable not in os.environ:  # Python prefers the variable in lower case
        variable = variable.upper()
    try:
        proxy = httpx2.Proxy(value if "://" in value else f"http://{value}")
        server_address.require(f"http://{proxy.url.netloc.decode()}")
        if proxy.url.scheme.startswith("http") or find_spec("socksio") is not None:
            return variable, httpcore2.Proxy(str(proxy.url), proxy.raw_auth)
    except (ValueError, httpx2.InvalidURL):
        pass
    raise server_address.AddressError(
        f"the value of {variable} is not a usable proxy's URL: write http://HOST:PORT, or socks5://HOST:PORT if the "
        f"Python package socksio is installed, or unset {variable}, or add the server's host to NO_PROXY"
    )
