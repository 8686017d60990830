from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.kit import onnx_models, shipped
from tests.kit.browser import chromium
from tests.kit.live import LiveServer
from tests.kit.onnx_file import with_metadata
from tests.kit.over_http import live_server
from tests.kit.rest import Rest
from tests.serving.server.transport.http.shown_page import EXAMPLES, HOSTILE, HOSTILE_METADATA


@pytest.fixture(scope="session")
def served(repository: Path) -> Iterator[LiveServer]:
    """A server of the whole repository with HTTP, for tests that do not change it."""
    with live_server("native", repository, max_batch_size=16, max_message_mib=1, instances=1, http_port=0) as server:
        yield server


@pytest.fixture
def rest(served: LiveServer) -> Iterator[Rest]:
    with Rest(served.server.http_address) as rest:
        yield rest


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def shown_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and routes for the page, such as a model with two versions and a model whose labels contain HTML."""
    models = tmp_path_factory.mktemp("models")
    (models / "lstm").symlink_to(shipped.MODELS / "lstm")
    (models / "cnn_rnn").symlink_to(EXAMPLES / "outfits/models/cnn_rnn")
    hostile = onnx_models.classifier(labels=HOSTILE)
    for name, value in HOSTILE_METADATA.items():
        hostile.metadata_props.add(key=f"hangtag.{name}", value=value)
    onnx_models.publish(models, "hostile", hostile)
    gate = '{"parity": {"limit": 0.5, "max_logit_difference": {"test": {"1": 0.25}}}, "agreement": {"images": 7}}'
    onnx_models.publish(models, "colours", with_metadata(onnx_models.colours(), gate=gate, made_of="the FP32 file"))
    onnx_models.publish(models, "two_inputs", onnx_models.two_inputs())
    for name, at_least in (("sure", 0), ("unsure", 1)):
        accept = f'accept = {{output = "probabilities", at_least = {at_least}}}'
        description = 'description = "<b>Chosen</b> by hand."'
        onnx_models.publish_route(models, name, f'cascade = ["lstm@1", "lstm@2"]\n{accept}\n{description}')
    split = 'split = {"lstm@2" = 100}\nsticky = "x-user-id"\nshadow = {model = "lstm", share = 0.25}'
    return onnx_models.publish_route(models, "canary", split)


@pytest.fixture(scope="module")
def shown(shown_models: Path) -> Iterator[LiveServer]:
    """A server of ``shown_models``, for tests that do not change it."""
    with live_server("native", shown_models, http_port=0, num_versions=2, instances=1) as server:
        yield server
