from collections.abc import Iterator
from pathlib import Path

import pytest

from hangtag.serving.client import Client
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.kinds import KINDS, Kind


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("classifier", "gather", "text", "two_inputs"):
        onnx_models.publish(folder, name, getattr(onnx_models, name)())
    return folder


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[Server]:
    with Server(ServerConfig(models=models, port=0, http_port=0)) as running:
        yield running


@pytest.fixture
def garment() -> Path:
    return Path(__file__).parents[3] / "examples/garments/ankle-boot-1.png"


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of client in turn."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def client(kind: Kind, server: Server) -> Iterator[Client]:
    with kind.open(kind.of(server)) as opened:
        yield opened
