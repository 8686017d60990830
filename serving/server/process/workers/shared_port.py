"""A port that several processes of one server share, and no other program has."""

import socket

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError


def reserve(config: ServerConfig) -> socket.socket:
    """A socket that holds the port and does not listen, so it gets no connections; close it at the end.

    Raises StartError when the address cannot be had, also where another server of many processes has it.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))  # exclusively: fails where anybody has it
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((config.host, config.port))
    except OSError as error:
        raise StartError(
            f"cannot listen on {config.address(config.port)}: another program has the port, or the address is not this "
            "machine's. Choose another with --port (0 picks a free one) or --host."
        ) from error
    return held
