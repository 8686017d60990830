from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.kit import onnx_models


@pytest.fixture
def publish(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    return lambda model: onnx_models.publish(tmp_path / "models", "m", model)
