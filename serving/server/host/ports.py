"""Binds this machine's ports, and says why a port cannot be bound."""

import errno
import socket
from pathlib import Path

from hangtag.serving.server.errors import StartError

GRPC_SOCKET, GRPCIO_SOCKET, HTTP_SOCKET, METRICS_SOCKET = "grpc.sock", "grpcio.sock", "http.sock", "metrics.sock"
"""The names of the Unix sockets on which a server behind Envoy listens. With native, grpcio has its own socket."""
GRPC, HTTP, METRICS = "port", "http-port", "metrics-port"
"""The purposes of ports, each named after the option that sets the port."""
_PURPOSES = {
    GRPC: ("", ""),
    HTTP: (" for HTTP", ", -1 turns HTTP off"),
    METRICS: (" for metrics", ", -1 turns metrics off"),
}

_PROBLEMS = {
    errno.EACCES: "permission is missing, because low ports are reserved for root and for programs with the capability "
    "CAP_NET_BIND_SERVICE (systemd grants it by AmbientCapabilities=CAP_NET_BIND_SERVICE)",
    errno.EADDRINUSE: "another program has the port. Each server on a machine needs its own --port, --http-port and "
    "--metrics-port",
    errno.EADDRNOTAVAIL: "this machine does not have the address",
}


def address_of(host: str, port: int) -> str:
    """Return host:port, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reserve(host: str, port: int, option: str) -> socket.socket:
    """Return a socket that reserves a port, like ``bind``: only this server's processes can listen on the port."""
    bind(host, port, option).close()
    return bind(host, port, option, shared=True)


def bind(host: str, port: int, option: str, *, shared: bool = False) -> socket.socket:
    """Return a socket that is bound to a port, or to any free port for 0, and does not listen yet. Raises StartError if
    the port is taken or privileged, or the host is not an address of this machine.

    ``option`` is the purpose of the port: GRPC, HTTP or METRICS. If ``shared``, the server's other workers or its
    Envoy may also listen on the port, by SO_REUSEPORT.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        where, check, (purpose, off) = address_of(host, port), "", _PURPOSES[option]
        if option == GRPC and error.errno == errno.EADDRINUSE:
            check = f"The program may be a server that was started earlier: see 'hangtag health --server {where}'. "
        raise StartError(
            f"cannot listen on {where}{purpose}: {_PROBLEMS.get(error.errno or 0, error.strerror or error)}. {check}"
            f"Choose another port with --{option} (0 picks a free port{off}), or another address with --host."
        ) from error
    return bound


def bind_unix(path: Path) -> socket.socket:
    """Return a Unix socket that is bound to a path and does not listen yet. A socket that is already there belongs to a
    process that has ended, and is replaced."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    return bound
