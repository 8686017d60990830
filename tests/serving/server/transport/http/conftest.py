from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.live import LiveServer
from tests.kit.over_http import live_server
from tests.kit.rest import Rest


@pytest.fixture(scope="session")
def served(repository: Path) -> Iterator[LiveServer]:
    """A server of the whole repository with HTTP, for tests that leave it as it was."""
    with live_server("native", repository, max_batch_size=16, max_message_mib=1, instances=1, http_port=0) as server:
        yield server


@pytest.fixture
def rest(served: LiveServer) -> Iterator[Rest]:
    with Rest(served.server.http_address) as rest:
        yield rest
