from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.serving.loadtest.fake_server import FakeServer, running

# The duration of an example depends on the machine's load, not on the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running(FakeServer()) as servicer:
        yield servicer
