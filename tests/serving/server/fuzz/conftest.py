"""The server that is fuzzed, one for each file of tests and transport; each test leaves it healthy."""

from collections.abc import Iterator

import pytest

from tests.kit.target import Target
from tests.serving.server.fuzz.fuzzed import serving_target


@pytest.fixture(scope="module", params=["native", "grpc"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with serving_target(tmp_path_factory.mktemp("models"), request.param) as target:
        yield target


@pytest.fixture(autouse=True)
def _healthy_afterwards(target: Target) -> Iterator[None]:
    yield
    target.require_health()
