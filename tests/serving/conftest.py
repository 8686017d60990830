"""Fixtures for the tests of clients: a server, and clients of each kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hangtag.serving.client import Client
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.kinds import KINDS, Kind
from tests.kit.server import server as running_server


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
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def client(kind: Kind, server: Server) -> Iterator[Client]:
    with kind.open(kind.of(server)) as opened:
        yield opened
