from pathlib import Path

import pytest

from tests.kit import onnx_models


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model repository with one small model."""
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    return tmp_path
