"""Reserves ports that the workers of one server share and that no other program uses."""

import socket

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.host.ports import bind_http, require_free


def reserve(config: ServerConfig) -> socket.socket:
    """Bind a socket to the gRPC port without listening, so that it gets no connections; close it when the server ends.

    Raises:
        StartError: The address cannot be bound, also where the workers of another server use it.
    """
    require_free(config.host, config.port)
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    reserved = socket.socket(family, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((config.host, config.port))
    return reserved


def reserve_http(config: ServerConfig) -> socket.socket:
    """Do the same for the HTTP port.

    Raises:
        StartError: The address cannot be bound, also where the workers of another server use it.
    """
    bind_http(config.host, config.http_port, shared=False).close()
    return bind_http(config.host, config.http_port, shared=True)
