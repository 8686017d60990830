from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.kit.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """A repository with version 1 of the models ``one`` and ``two``, which have equal signatures."""
    with closing(Repository(tmp_path / "models")) as repository:
        for name in ("one", "two"):
            repository.publish(name)
        yield repository
