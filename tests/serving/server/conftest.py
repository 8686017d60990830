from pathlib import Path

import pytest

from tests.kit import onnx_models


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository for this test alone. Its only model loads quickly."""
    return onnx_models.publish_all(tmp_path / "models", "gather")
