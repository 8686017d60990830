"""Versions that cannot be loaded for reasons of their own hold up no other model, and no route."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import structlog.testing

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.engine import loading
from hangtag.serving.server.errors import ModelLoadError
from tests.kit import onnx_models
from tests.serving.server.engine.control.controlled import Start, add
from tests.serving.server.engine.control.route_files import write

ENORMOUS = pytest.mark.parametrize("shape", [["batch", 2**60], [1, 2**60], [1, 2**62]])
"""4 EiB are more than a process can address, and 16 EiB more than numpy can count."""


def publish_enormous(models: Path, shape: onnx_models.Shape) -> None:
    """A small file whose input, x FP32, has this shape. Its name comes before those of all other models."""
    total: onnx_models.Shape = [shape[0], 1]
    model = onnx_models.model(
        [onnx.helper.make_node("ReduceSum", ["x", "axes"], ["total"])],
        {"x": (onnx.TensorProto.FLOAT, shape)},
        {"total": (onnx.TensorProto.FLOAT, total)},
        {"axes": np.array([1], np.int64)},
    )
    onnx_models.publish(models, "enormous", model)


@ENORMOUS
def test_polling_reports_an_enormous_input_and_follows_everything_else(
    models: Path, start: Start, shape: onnx_models.Shape
) -> None:
    publish_enormous(models, shape)
    write(models, "route", "split = {gather = 100}")
    controlled = start("poll")
    assert controlled.served() == {"gather": ["1"], "route": ["1"], "text": ["1"]}
    add(models, "text", 2)
    with structlog.testing.capture_logs() as log:
        controlled.control.poll()
    assert controlled.served() == {"gather": ["1"], "route": ["1"], "text": ["2"]}
    assert not [line for line in log if line.get("model") == "enormous"]  # it was reported at the start
    assert ("enormous", "1", "UNAVAILABLE") in controlled.index()


@ENORMOUS
def test_an_enormous_input_ends_a_start_with_one_line_that_names_the_file(
    models: Path, start: Start, shape: onnx_models.Shape
) -> None:
    publish_enormous(models, shape)
    with pytest.raises(ModelLoadError, match=r"enormous/1/model\.onnx loads, but memory cannot hold its inputs \(x"):
        start("none")


def test_an_error_inside_the_server_holds_up_one_model_and_is_logged_once(
    models: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = loading.load_model

    def broken(file: ModelFile, *arguments: Any) -> Any:
        if file.name == "gather":
            raise RuntimeError("a bug")
        return load(file, *arguments)

    monkeypatch.setattr(loading, "load_model", broken)
    with structlog.testing.capture_logs() as log:
        controlled = start("poll")
        controlled.control.poll()
    assert controlled.served() == {"text": ["1"]}
    (line,) = [line for line in log if line["log_level"] == "error"]
    assert (line["event"], line["model"], line["version"], line["exc_info"]) == ("model not loaded", "gather", 1, True)
    (failed,) = [state for state in controlled.control.state().versions if state.name == "gather"]
    assert failed.state == "UNAVAILABLE"
    assert "gather/1/model.onnx cannot be loaded because of an error inside the server" in failed.reason
    assert controlled.control.state().loads == {("gather", "error"): 1, ("text", "ok"): 1}
    with pytest.raises(RuntimeError):
        start("explicit", load_model=()).control.load("gather")
