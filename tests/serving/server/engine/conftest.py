from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit.repository import Repository
from tests.serving.server.engine.running import Running, Start
from tests.serving.server.engine.scripted import Scripts


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Version 1 of two models with one signature, ``one`` and ``two``."""
    repository = Repository(tmp_path / "models")
    for name in ("one", "two"):
        repository.publish(name)
    return repository


@pytest.fixture
def start(repository: Repository) -> Iterator[Start]:
    """Starts servers that poll when a test says so, and that close what was replaced at once."""
    with ExitStack() as stack:

        def start(
            mode: str = "none",
            *,
            versions: Mapping[str, tuple[int, ...]] | None = None,
            runtimes: Scripts | None = None,
            limits: Limits | None = None,
            **settings: Any,
        ) -> Running:
            config = ServerConfig(
                **{
                    "models": repository.folder,
                    "port": 0,
                    "http_port": -1,
                    "transport": "grpc",
                    "drain_seconds": 0,
                    **settings,
                },
                model_control=mode,
                poll_seconds=3600,
                limits=limits or Limits(linger_seconds=0),
            )
            return stack.enter_context(Running(Server(config, versions=versions, runtimes=runtimes or Scripts())))

        yield start
