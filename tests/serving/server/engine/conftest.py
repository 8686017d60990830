from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.kit.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """Version 1 of two models with equal signatures, ``one`` and ``two``."""
    with closing(Repository(tmp_path / "models")) as repository:
        for name in ("one", "two"):
            repository.publish(name)
        yield repository
