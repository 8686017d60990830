"""Fixtures of the tests of clients: a server, and each kind of client of it."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hangtag.serving.client import Client
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.kinds import KINDS, Kind
from tests.kit.server import server as running_server
from tests.kit.waiting import until

SHARED = re.compile(r"_\d+$|^grpc$|_poll_wrapper")  # of pools that grow while a server serves, and of event loops


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fails a test that leaves a server running, which would log into later ones."""
    before = {*threading.enumerate()}
    yield
    until(lambda: all(SHARED.search(thread.name) for thread in {*threading.enumerate()} - before), 10)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_models.publish_all(tmp_path_factory.mktemp("models"), "classifier", "gather", "text", "two_inputs")


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[Server]:
    with running_server(models) as running:
        yield running


@pytest.fixture
def garment() -> Path:
    return Path(__file__).parents[2] / "examples/garments/ankle-boot-1.png"


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of client in turn."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def client(kind: Kind, server: Server) -> Iterator[Client]:
    with kind.open(kind.of(server)) as opened:
        yield opened
