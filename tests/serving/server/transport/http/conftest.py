from collections.abc import Iterator
from pathlib import Path

import pytest

from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit.live import LiveServer
from tests.kit.rest import Rest


@pytest.fixture(scope="session")
def served(repository: Path) -> Iterator[LiveServer]:
    """A real server of the whole repository with HTTP, for tests that leave it as it was."""
    config = ServerConfig(models=repository, port=0, http_port=0, max_batch_size=16, max_message_mib=1, instances=1)
    with LiveServer(config) as server:
        yield server


@pytest.fixture
def rest(served: LiveServer) -> Iterator[Rest]:
    with Rest(served.server.http_address) as rest:
        yield rest


@pytest.fixture
def own_http(repository: Path) -> Iterator[LiveServer]:
    """A server of this test alone: a queue of 4, batches of 4, one instance, at most 3 HTTP connections."""
    config = ServerConfig(
        models=repository,
        port=0,
        http_port=0,
        max_batch_size=4,
        max_queue_size=4,
        max_connections=8,
        instances=1,
        transport="grpc",
    )
    with LiveServer(config) as server:
        yield server
