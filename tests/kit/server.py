"""A server in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server


@contextmanager
def server(models: Path, **settings: Any) -> Iterator[Server]:
    """A server that is ready inside the block, on free ports for gRPC and HTTP, and drained after it.

    Args:
        models: The model repository.
        settings: Of ServerConfig.
    """
    with Server(ServerConfig(models=models, **{"port": 0, "http_port": 0, **settings})) as running:
        yield running
