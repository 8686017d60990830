"""Reserves a port that the workers of one server share and that no other program uses."""

import socket

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError


def reserve(config: ServerConfig) -> socket.socket:
    """Bind a socket to the port without listening, so that it gets no connections; close it when the server ends.

    Raises:
        StartError: The address cannot be bound, also where the workers of another server use it.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))  # without SO_REUSEPORT this fails if any program has the port
        reserved = socket.socket(family, socket.SOCK_STREAM)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((config.host, config.port))
    except OSError as error:
        raise StartError(
            f"cannot listen on {config.address(config.port)}: another program has the port, or the address is not this "
            "machine's. Choose another with --port (0 picks a free one) or --host."
        ) from error
    return reserved
