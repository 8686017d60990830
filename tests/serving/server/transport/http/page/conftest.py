from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from hangtag.serving.server.config.server_config import ServerConfig
from tests import onnx_models, shipped
from tests.browser import chromium
from tests.serving.server.transport.http.page.shown import HOSTILE, HOSTILE_METADATA
from tests.serving.server.transport.live import LiveServer


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a classifier, one that predicts sets, one with HTML as labels, and one that takes no pictures."""
    models = tmp_path_factory.mktemp("models")
    (models / "lstm").symlink_to(shipped.MODELS / "lstm")
    (models / "cnn_rnn").symlink_to(shipped.MODELS.parent / "examples/outfits/models/cnn_rnn")
    hostile = onnx_models.classifier(labels=HOSTILE)
    for name, value in HOSTILE_METADATA.items():
        hostile.metadata_props.add(key=f"hangtag.{name}", value=value)
    onnx_models.publish(models, "hostile", hostile)
    onnx_models.publish(models, "two_inputs", onnx_models.two_inputs())
    return models


@pytest.fixture(scope="package")
def shown(models: Path) -> Iterator[LiveServer]:
    """A server that the tests leave as it is."""
    with LiveServer(ServerConfig(models=models, port=0, http_port=0, num_versions=2, instances=1)) as server:
        yield server
