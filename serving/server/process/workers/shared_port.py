"""Reserves the ports that the workers of one server share and that no other program uses."""

import socket
from dataclasses import replace

from hangtag.serving.server.config.server_config import OFF, ServerConfig
from hangtag.serving.server.host.ports import bind_http, require_free


class SharedPorts:
    """Holds the ports until ``close``, by sockets that are bound without listening, so that they get no connections."""

    def __init__(self, config: ServerConfig) -> None:
        """Reserve the gRPC port, and the HTTP port where there is one.

        Raises:
            StartError: An address cannot be bound, also where the workers of another server use it.
        """
        self._reserved = [_reserve(config)]
        self.config = replace(config, port=self._reserved[0].getsockname()[1])
        """The settings for the workers, with the ports that the system chose."""
        if config.http_port != OFF:
            self._reserved.append(_reserve_http(config))
            self.config = replace(self.config, http_port=self._reserved[1].getsockname()[1])

    @property
    def addresses(self) -> dict[str, str]:
        """host:port by the log's name for it: ``address``, and ``http`` where there is HTTP."""
        config = self.config
        http = {} if config.http_port == OFF else {"http": config.address(config.http_port)}
        return {"address": config.address(config.port)} | http

    def close(self) -> None:
        for reserved in self._reserved:
            reserved.close()


def _reserve(config: ServerConfig) -> socket.socket:
    require_free(config.host, config.port)
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    reserved = socket.socket(family, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((config.host, config.port))
    return reserved


def _reserve_http(config: ServerConfig) -> socket.socket:
    bind_http(config.host, config.http_port, shared=False).close()
    return bind_http(config.host, config.http_port, shared=True)
