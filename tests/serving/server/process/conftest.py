"""A repository with one small model."""

from pathlib import Path

import pytest

from tests.kit import onnx_models


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model repository with one small model."""
    return onnx_models.publish_all(tmp_path, "gather")
