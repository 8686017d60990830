from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.serving.loadtest.fake_server import FakeServer, running

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running(FakeServer()) as servicer:
        yield servicer
