from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.runtime.session import Runtime, RuntimeFactory
from tests.kit import onnx_models
from tests.serving.server.engine.control.controlled import Controlled, Start


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    onnx_models.publish(tmp_path, "text", onnx_models.text())
    return tmp_path


@pytest.fixture
def start(models: Path) -> Iterator[Start]:
    started: list[Controlled] = []

    def start(
        mode: str,
        others_serve: Mapping[str, tuple[int, ...]] | None = None,
        runtimes: RuntimeFactory = Runtime,
        **options: object,
    ) -> Controlled:
        settings = {"limits": Limits(linger_seconds=0), **options}
        config = ServerConfig(models=models, model_control=mode, poll_seconds=3600, **settings)  # type: ignore[arg-type]
        controlled = Controlled(config, others_serve, runtimes)
        started.append(controlled)
        controlled.control.start()
        return controlled

    yield start
    for each in started:
        each.control.stop()
        each.control.close()
        each.engine.close()
