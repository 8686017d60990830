from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT, ServerProcess, serving


@pytest.fixture(scope="session")
def models() -> Path:
    """The repository that ships."""
    return ROOT / "models"


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[ServerProcess]:
    """A real server, in its own process, on the models that ship."""
    with serving(models) as process:
        yield process
