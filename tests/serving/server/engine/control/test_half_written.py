"""Versions whose files are not complete when polling finds them, or change later: weights beside the model too."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import structlog.testing

from hangtag.serving.server.engine.served_model import ServedModel
from tests.kit import onnx_models
from tests.serving.server.engine.control.controlled import Controlled, Start, add

WEIGHTS = np.array([1, 2], np.float32).tobytes()
OTHERS = np.array([3, 4], np.float32).tobytes()
PLACES = pytest.mark.parametrize("place", ["model.onnx.data", "weights/model.data"])


def with_weights(models: Path, place: str) -> Path:
    """Publish version 2 of ``added``, x FP32 [batch, 2] -> y: x plus weights, and return the file that these belong
    into; its folder is there."""
    model = onnx_models.with_external_weights(place, onnx.TensorProto.FLOAT, 2)
    file = onnx_models.publish(models, "added", model, version=2).parent / place
    file.parent.mkdir(exist_ok=True)
    return file


def answer(controlled: Controlled) -> list[float]:
    model = controlled.engine.model("added")
    assert isinstance(model, ServedModel)
    answer: list[float] = model.runtime.run({"x": np.zeros((1, 2), np.float32)})["y"][0].tolist()
    return answer


@pytest.fixture
def polled(models: Path, start: Start) -> Controlled:
    add(models, "added", 1)
    return start("poll")


@PLACES
def test_polling_serves_a_version_as_soon_as_its_weights_are_complete(
    models: Path, polled: Controlled, place: str
) -> None:
    weights = with_weights(models, place)
    weights.write_bytes(WEIGHTS[:4])
    with structlog.testing.capture_logs() as log:
        polled.control.poll()
        polled.control.poll()
    assert [line["event"] for line in log] == ["model not loaded"]  # once: the files are the same
    assert polled.served()["added"] == ["1"]
    with weights.open("ab") as file:
        file.write(WEIGHTS[4:])
    polled.control.poll()
    assert polled.served()["added"] == ["2"]
    assert answer(polled) == [1, 2]


@PLACES
def test_polling_serves_a_version_whose_weights_get_their_name_last(
    models: Path, polled: Controlled, place: str
) -> None:
    weights = with_weights(models, place)
    part = weights.with_name(weights.name + ".part")
    part.write_bytes(WEIGHTS)
    polled.control.poll()
    assert polled.served()["added"] == ["1"]
    part.rename(weights)
    polled.control.poll()
    assert polled.served()["added"] == ["2"]


@PLACES
def test_polling_sees_weights_that_were_replaced(models: Path, polled: Controlled, place: str) -> None:
    weights = with_weights(models, place)
    weights.write_bytes(WEIGHTS)
    polled.control.poll()
    before = polled.engine.model("added")
    polled.control.poll()
    assert polled.engine.model("added") is before
    other = models / "other"
    other.write_bytes(OTHERS)
    other.replace(weights)
    polled.control.poll()
    assert polled.engine.model("added") is not before
    assert answer(polled) == [3, 4]
