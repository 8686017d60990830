"""Whether a port of this machine can be bound, and why not."""

import errno
import socket
from pathlib import Path

from hangtag.serving.server.errors import StartError

_FIRST_FREE_FOR_ALL = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def address_of(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind_problem(error: OSError, port: int) -> str:
    """Why a port could not be bound, and for a privileged one who may bind it, as part of a sentence."""
    if error.errno == errno.EACCES and port < (first := _first_port_for_all()):
        return (
            f"permission is missing, because ports below {first} are for root and for programs with the capability "
            "CAP_NET_BIND_SERVICE (systemd grants it by AmbientCapabilities=CAP_NET_BIND_SERVICE)"
        )
    if error.errno == errno.EADDRINUSE:
        return (
            "another program has the port. A server that runs beside another one needs a --port, an --http-port and a "
            "--metrics-port of its own"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return "the address is not this machine's"
    return error.strerror or str(error)


def require_free(host: str, port: int) -> None:
    """Bind the port for a moment, without SO_REUSEPORT, which fails if any program has it.

    Raises:
        StartError: The port is taken or privileged, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        where = address_of(host, port)
        taken = error.errno == errno.EADDRINUSE
        check = f"It may be a server started earlier: see 'hangtag health --server {where}'. " if taken else ""
        raise StartError(
            f"cannot listen on {where}: {bind_problem(error, port)}. {check}"
            "Choose another port with --port (0 picks a free one), or another address with --host."
        ) from error


def bind_http(host: str, port: int, *, shared: bool) -> socket.socket:
    """Return a socket that is bound to the HTTP port and does not listen yet.

    Args:
        host: An address of this machine.
        port: 0 for a free one.
        shared: By SO_REUSEPORT, with the other workers of the server.

    Raises:
        StartError: The port is taken or privileged, or the host is not an address of this machine.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise StartError(
            f"cannot listen on {address_of(host, port)} for HTTP: {bind_problem(error, port)}. Choose another port "
            "with --http-port (0 picks a free one, -1 turns HTTP off), or another address with --host."
        ) from error
    return bound


def _first_port_for_all() -> int:
    try:
        return int(_FIRST_FREE_FOR_ALL.read_text())
    except (OSError, ValueError):  # not Linux
        return 1024
