"""An engine with its model control, and functions that change its repository."""

from collections.abc import Callable, Mapping
from pathlib import Path

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_control import ModelControl
from hangtag.serving.server.runtime.session import RuntimeFactory
from tests.kit import onnx_models


class Controlled:
    """An engine and its control, with short ways to read their state."""

    def __init__(
        self, config: ServerConfig, others_serve: Mapping[str, tuple[int, ...]] | None, runtimes: RuntimeFactory
    ) -> None:
        """others_serve: what the other workers serve, for one that replaces another."""
        self.engine = Engine(config)
        self.control = ModelControl(self.engine, others_serve, runtimes)

    def served(self) -> dict[str, list[str]]:
        return {name: [model.version for model in self.engine.versions(name)] for name in self.engine.names()}

    def index(self) -> list[tuple[str, str, str]]:
        return [(one.name, one.version, one.state) for one in self.control.state().versions]


Start = Callable[..., Controlled]


def add(models: Path, name: str, version: int) -> Path:
    return onnx_models.publish(models, name, getattr(onnx_models, name)(), version)


def spoil(models: Path, name: str, version: int) -> Path:
    file = models / name / str(version) / "model.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"no model")
    return file


def remove(file: Path) -> None:
    file.unlink()
    file.parent.rmdir()
