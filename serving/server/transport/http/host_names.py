"""The names that clients call the HTTP port by.

A web page of ``evil.example`` may have its name resolve to the server's address once it is loaded (DNS rebinding). The
browser then takes the server for the page's own site, and sends ``Host`` and ``Origin`` with that name. An address or
``localhost`` in ``Host`` cannot come from such a page, and the operator knows every other name of the server.
"""

import ipaddress
import re
from collections.abc import Iterable

from hangtag.serving.server.errors import ForeignOriginError

_LOCALHOST = "localhost"
_PORT = re.compile(r":[0-9]*$")
_MAX_QUOTED = 200


class HostNames:
    """Addresses, localhost, and the names that the operator gives."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """Know the names of a server. allowed: beside addresses and localhost, in any case, without a port."""
        self._allowed = frozenset(name.lower().rstrip(".") for name in allowed)

    def require(self, host: str) -> None:
        """Raise ForeignOriginError unless a Host header names this server."""
        if not self.has(host):
            raise ForeignOriginError(
                f"this server has no name {host[:_MAX_QUOTED]!r}; call it by its address or as localhost, or start it "
                "with --allowed-host and that name"
            )

    def has(self, host: str) -> bool:
        """Whether a Host header, with or without a port, names this server. An empty one does: no browser sends it."""
        name = _PORT.sub("", host).lower().rstrip(".")
        if name in ("", _LOCALHOST) or name.endswith(f".{_LOCALHOST}") or name in self._allowed:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True
