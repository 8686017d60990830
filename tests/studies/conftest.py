from pathlib import Path

import pytest

from tests.kit.shipped import MODELS


@pytest.fixture(scope="session")
def lstm_and_cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with what the benchmarks of servers call, which starts faster than one with all models."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("lstm", "cnn"):
        (folder / name).symlink_to(MODELS / name)
    return folder
