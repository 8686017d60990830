import pytest

from tests.serving.server.parts import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()
