"""Runs a server in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.runtime.session import Runtime, RuntimeFactory


@contextmanager
def server(models: Path, *, runtimes: RuntimeFactory = Runtime, **settings: Any) -> Iterator[Server]:
    """A server on free ports for gRPC and HTTP, which is ready inside the block and stops after the block.

    Args:
        models: The model repository.
        runtimes: The factory that loads the models, such as a `gate.Gates`.
        settings: Settings of ServerConfig, such as ``limits``.
    """
    config = ServerConfig(models=models, **{"port": 0, "http_port": 0, **settings})
    with Server(config, runtimes=runtimes) as running:
        yield running
