from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.serving.server.engine.running import Repository, Running, Start


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Version 1 of two models with one signature, ``one`` and ``two``."""
    repository = Repository(tmp_path / "models")
    for name in ("one", "two"):
        repository.publish(name)
    return repository


@pytest.fixture
def start(repository: Repository) -> Iterator[Start]:
    """Starts servers of the repository, with the arguments of Running."""
    with ExitStack() as stack:

        def start(mode: str = "none", *, models: Path = repository.folder, **options: Any) -> Running:
            return stack.enter_context(Running(models, mode, **options))

        yield start
