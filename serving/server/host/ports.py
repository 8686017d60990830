"""Whether a port of this machine can be bound."""

import socket

from hangtag.serving.server.errors import StartError


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
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise StartError(
            f"cannot listen on {address}: another program has the port, or the address is not this "
            "machine's. Choose another with --port (0 picks a free one) or --host."
        ) from error
