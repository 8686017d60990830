"""Writes files of routes over two models, and looks whether these routes serve."""

from pathlib import Path

import numpy as np

from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.telemetry.server_state import UNAVAILABLE
from tests.kit import onnx_models
from tests.serving.server.engine.control.controlled import Controlled
from tests.serving.server.parts import Caller

SPLIT = "split = {one = 50, two = 50}"
TIMEOUT = 30.0


def publish_members(models: Path) -> Path:
    """Publish the two models, and return their repository."""
    for name in ("one", "two"):
        onnx_models.publish(models, name, onnx_models.doubled("batch", "batch"))
    return models


def write(models: Path, name: str, text: str) -> Path:
    """Write a route's file; its folder is made."""
    file = models / name / "route.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def problem(controlled: Controlled, name: str) -> str:
    """Why this name, which does not serve, does not."""
    (state,) = [state for state in controlled.control.state().versions if state.name == name]
    assert state.state == UNAVAILABLE
    return state.reason


def answers(controlled: Controlled, name: str) -> bool:
    """Whether the route answers a call; its members end after it."""
    caller = Caller()
    controlled.engine.model(name).submit({"x": np.ones((1, 2), np.float32)}, {"x": "FP32"}, caller)
    for _ in range(2):
        for member in ("one", "two"):
            controlled.engine.model(member).close()
    return bool(caller.answer.outputs["y"].tolist() == [[2, 2]])


def until_closed(model: Servable) -> None:
    """Wait for the end of the threads of a model that was replaced."""
    assert isinstance(model, ServedModel)
    for instance in model._instances:
        instance.join(TIMEOUT)
        assert not instance.is_alive()
