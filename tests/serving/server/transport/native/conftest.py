from collections.abc import Iterator
from pathlib import Path

import pytest

from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit.live import LiveServer


@pytest.fixture
def config(repository: Path) -> ServerConfig:
    return ServerConfig(
        models=repository, port=0, http_port=-1, max_batch_size=4, max_queue_size=8, instances=2, transport="native"
    )


@pytest.fixture
def native(config: ServerConfig) -> Iterator[LiveServer]:
    with LiveServer(config) as server:
        yield server
