"""Whether a port of this machine can be bound."""

import socket

from hangtag.serving.server.errors import StartError


def address_of(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cannot_listen(address: str) -> StartError:
    """Return the error of an address that cannot be bound."""
    return StartError(
        f"cannot listen on {address}: another program has the port, or the address is not this "
        "machine's. Choose another with --port (0 picks a free one) or --host."
    )


def require_free(host: str, port: int) -> None:
    """Bind the port for a moment, without SO_REUSEPORT, which fails if any program has it.

    Raises:
        StartError: The port is taken, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise cannot_listen(address_of(host, port)) from error
