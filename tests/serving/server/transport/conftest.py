from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit import onnx_models, shipped
from tests.kit.certificates import Certificates
from tests.kit.live import LiveServer
from tests.kit.over_http import ENVOY, HTTP, live_server


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one model of every kind, and the shipped lstm."""
    batched = ("classifier", "two_inputs", "text", "every_type", "free_axis", "gather", "recurrent")
    others = ("unbatched", "not_a_batch_axis", "state", "every_scalar")
    models = onnx_models.publish_all(tmp_path_factory.mktemp("models"), *batched, *others)
    onnx_models.publish(models, "classifier", onnx_models.classifier(), version=12)
    (models / "lstm").symlink_to(shipped.MODELS / "lstm")
    return models


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


@pytest.fixture(scope="session", params=["native", "grpc", HTTP, ENVOY])
def transport(request: pytest.FixtureRequest) -> str:
    """Runs every test over all transports, except tests in the folder ``grpc`` and tests with the mark OVER_GRPC."""
    return str(request.param)


@pytest.fixture(scope="session")
def live(repository: Path, transport: str) -> Iterator[LiveServer]:
    """A real server of the whole repository, for tests that do not change it."""
    with live_server(transport, repository, max_batch_size=16, max_queue_size=64, instances=1) as server:
        yield server


@pytest.fixture(scope="session")
def few(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of a few models for tests that start their own server, because each model takes time to load."""
    models = tmp_path_factory.mktemp("few")
    for name in ("classifier", "gather", "unbatched", "free_axis"):
        (models / name).symlink_to(repository / name)
    return models


@contextmanager
def own_server(models: Path, transport: str) -> Iterator[LiveServer]:
    """A server with a queue of 4, batches of 4, one instance, and many streams. Two models override the batch size."""
    with live_server(
        transport,
        models,
        max_batch_size=4,
        max_queue_size=4,
        model_max_batch_size=(("not_a_batch_axis", 4), ("two_inputs", 0)),
        instances=1,
        max_concurrent_streams=200,
    ) as server:
        yield server


@pytest.fixture
def own(few: Path, transport: str) -> Iterator[LiveServer]:
    """A server for this test alone, with only a few models."""
    with own_server(few, transport) as server:
        yield server


@pytest.fixture(scope="module")
def own_whole(repository: Path, transport: str) -> Iterator[LiveServer]:
    """A server for the tests of one file, with every model. Each test leaves the models' gates open."""
    with own_server(repository, transport) as server:
        yield server
