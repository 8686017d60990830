"""Fixtures: a fake server, and the results of command.py's load tests, each of which runs once."""

import multiprocessing.context
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.kit import forkserver
from tests.kit.fake_server import FakeServer, running
from tests.kit.once import once
from tests.serving.loadtest import command
from tests.serving.loadtest.command import Loadtest, Measured

# A busy machine makes examples slow, so Hypothesis sets no deadline for them.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def forked_generators(request: pytest.FixtureRequest) -> Iterator[None]:
    """To save half a second, fork the load generator's processes, except in tests that use ``spawned``."""
    with pytest.MonkeyPatch.context() as patch:
        if "spawned" not in request.fixturenames:
            patch.setitem(vars(multiprocessing.context)["_concrete_contexts"], "spawn", forkserver.CONTEXT)
        yield


@pytest.fixture
def spawned() -> None:
    """Spawn the load generator's processes, so that they inherit the limits of this process."""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running(FakeServer()) as servicer:
        yield servicer


@pytest.fixture
def loadtest(server: FakeServer, tmp_path: Path) -> Loadtest:
    return Loadtest(server, tmp_path)


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measured]:
    """The folder and the results of a load test with every kind of measurement and report."""
    return once(tmp_path_factory, "loadtest-complete", lambda folder: (folder, command.complete(folder)))


@pytest.fixture(scope="session")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measured]:
    """The folder and the results of a load test in which some targets fail."""
    return once(tmp_path_factory, "loadtest-spoiled", lambda folder: (folder, command.spoiled(folder)))
