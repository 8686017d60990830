"""A precision is a model of its own, so a route may have one for a member, or for its shadow."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from hangtag.export.file.precision.conversion import convert
from hangtag.training.data.fashion_mnist import Split
from tests.kit import onnx_models, shipped
from tests.serving.server.engine.control.controlled import Start
from tests.serving.server.engine.control.route_files import write
from tests.serving.server.transport.native.events import Answer

ROUTE = """
cascade = ["lstm", "cnn-int8"]
accept = {output = "probabilities", at_least = 0.9}
shadow = {model = "cnn", share = 1}
"""


@pytest.fixture
def models(tmp_path: Path, garments: Split) -> Path:
    models = tmp_path / "models"
    models.mkdir()
    for name in ("lstm", "cnn"):
        (models / name).symlink_to(shipped.MODELS / name)
    onnx_models.publish(models, "cnn-int8", convert(onnx.load(shipped.latest("cnn")), "int8", garments.images[-32:]))
    write(models, "both", ROUTE)
    return models


def test_a_cascade_sends_doubtful_samples_to_an_int8_member_and_compares_its_fp32_original(
    models: Path, start: Start, garments: Split
) -> None:
    controlled = start("none")
    images = garments.images[:64]
    route = controlled.engine.model("both")
    callers = {}
    for name in ("lstm", "cnn-int8", "both"):
        callers[name] = Answer()
        controlled.engine.model(name).submit({"image": images}, {"image": "UINT8"}, callers[name])
        callers[name].wait()
    for name in ("lstm", "cnn-int8", "cnn"):  # the members' threads submit the copy before they end
        controlled.engine.model(name).close()
    lstm, int8, both = (caller.answer.outputs["probabilities"] for caller in callers.values())
    doubtful = lstm.max(axis=1) < 0.9
    assert 0 < doubtful.sum() < len(images)
    np.testing.assert_array_equal(both[~doubtful], lstm[~doubtful])
    np.testing.assert_allclose(both[doubtful], int8[doubtful], rtol=1e-4, atol=1e-5)
    assert [stage.member for stage in callers["both"].answer.timings.stages] == ["lstm", "cnn-int8"]
    shadow = route.state().route.shadow
    assert shadow is not None
    assert shadow[:4] == (1, 0, 0, 64)
    assert shadow.agreed >= 60
    assert 0 < shadow.largest_difference < 5
