"""A supervisor in this process, with two real workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.workers.supervisor import Supervisor
from tests.kit import onnx_models


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    return tmp_path


@pytest.fixture
def supervised(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[5]))
    config = ServerConfig(
        models=models,
        port=0,
        http_port=-1,
        workers=2,
        model_control="explicit",
        load_model=("gather",),
        limits=Limits(worker_check_seconds=0.05, worker_answer_seconds=0.2, worker_restart_seconds=0.001),
    )
    supervised = Supervisor(config)
    supervised.start()
    yield supervised
    supervised.stop(grace=5)
