"""A fake server, and the load tests of command.py, each made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.kit.fake_server import FakeServer, running
from tests.kit.once import once
from tests.serving.loadtest import command
from tests.serving.loadtest.command import Loadtest, Measured

# The duration of an example depends on the machine's load, not on the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running(FakeServer()) as servicer:
        yield servicer


@pytest.fixture
def loadtest(server: FakeServer, tmp_path: Path) -> Loadtest:
    return Loadtest(server, tmp_path)


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measured]:
    """The folder and the results of a load test with every kind of measurement and of report."""
    return once(tmp_path_factory, "loadtest-complete", lambda folder: (folder, command.complete(folder)))


@pytest.fixture(scope="session")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measured]:
    """The folder and the results of a load test in which much goes wrong."""
    return once(tmp_path_factory, "loadtest-spoiled", lambda folder: (folder, command.spoiled(folder)))
