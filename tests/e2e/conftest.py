"""Fixtures of the end-to-end tests: the shipped models, and a server process that serves them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT, ServerProcess, serving


@pytest.fixture(scope="session")
def models() -> Path:
    """The shipped model repository."""
    return ROOT / "models"


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[ServerProcess]:
    """One server process for the whole session, on the shipped models."""
    with serving(models) as process:
        yield process
