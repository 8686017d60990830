from collections.abc import Iterator

import pytest

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    for name in ("classifier", "gather", "every_type"):
        onnx_models.publish(models, name, getattr(onnx_models, name)())
    with Server(ServerConfig(models=models, port=0, http_port=0)) as running:
        yield running
