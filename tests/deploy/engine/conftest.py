"""Fixtures of the tests on a Docker engine, which need the images that `make -C deploy build` builds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.engine.stack import Stack, stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def scaled() -> Iterator[Stack]:
    """Two servers behind the proxy. Prometheus scrapes both servers."""
    with stack("hangtag-test-scale", "scale", "monitoring", "loadtest") as scaled:
        scaled.up("server", "proxy", "prometheus", replicas=2)
        scaled.client("health", "--server", "proxy:8080", "--wait", "30")
        yield scaled
