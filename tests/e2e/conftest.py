"""The server process that most end-to-end tests call, and the images that they send."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.kit.command import ROOT, Serving, serving
from tests.kit.shipped import MODELS


@pytest.fixture(scope="session")
def server() -> Iterator[Serving]:
    """The console script, which serves the shipped models for the whole test session."""
    with serving("--models", MODELS, "--port", 0, script=True) as process:
        process.wait_for("ready")
        yield process


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with 16 test images, UINT8 [16, 28, 28]."""
    file = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(file, np.load(ROOT / "examples/test-images.npz")["image"][:16])
    return file
