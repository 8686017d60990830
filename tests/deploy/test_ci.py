"""Which way .ci/run takes to a Docker engine, with programs that only tell how they were called."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TELL = '#!/bin/sh\necho "$(basename "$0") $*"\n'


def program(path: Path, text: str = TELL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder beside which there is another one with an executable tools/docker-here that is none of ours."""
    shutil.copytree(ROOT / ".ci", tmp_path / "repository/.ci")
    program(tmp_path / "bin/make")
    program(tmp_path / "bin/docker", "#!/bin/sh\nexit 1\n")
    program(tmp_path / "stranger/tools/docker-here")
    return tmp_path / "repository"


def told(repository: Path, **variables: str) -> list[str]:
    path = f"{repository.parent / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [repository / ".ci/run"], env={"PATH": path, **variables}, capture_output=True, text=True, check=True
    )
    return (done.stdout + done.stderr).splitlines()


def test_without_an_engine_it_says_so_and_runs_no_strangers_program(repository: Path) -> None:
    first, said = told(repository)
    assert first == "make test"
    assert said.startswith("The deployment was not tested: no Docker engine runs here, and ")


def test_an_engine_that_runs(repository: Path) -> None:
    program(repository.parent / "bin/docker", "#!/bin/sh\nexit 0\n")
    assert told(repository) == ["make test", "make -C deploy build sbom test"]


def test_a_helper(repository: Path) -> None:
    beside = program(repository.parent / "shared/tools/docker-here")
    assert told(repository)[1:] == [
        "docker-here build -- make -C deploy build sbom", "docker-here run -- make -C deploy test",
    ]  # fmt: skip
    named = program(repository.parent / "elsewhere/mine")
    assert told(repository, DOCKER_HELPER=str(named))[1:] == [
        "mine build -- make -C deploy build sbom", "mine run -- make -C deploy test",
    ]  # fmt: skip
    beside.chmod(0o644)
    assert told(repository)[1].startswith("The deployment was not tested")
