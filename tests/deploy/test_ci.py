"""How .ci/run reaches a Docker engine, tried with fake programs that print their command lines."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALWAYS = ["make test", "make -C deploy audit"]
PRINT_COMMAND = '#!/bin/sh\necho "$(basename "$0") $*"\n'


def write_program(path: Path, text: str = PRINT_COMMAND) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of .ci next to an unrelated folder that also has an executable tools/docker-here."""
    shutil.copytree(ROOT / ".ci", tmp_path / "repository/.ci")
    write_program(tmp_path / "bin/make")
    write_program(tmp_path / "bin/docker", "#!/bin/sh\nexit 1\n")
    write_program(tmp_path / "unrelated/tools/docker-here")
    return tmp_path / "repository"


def run_ci(repository: Path, **variables: str) -> list[str]:
    """Runs .ci/run and returns the lines that it prints: the commands that it called, then its messages."""
    path = f"{repository.parent / 'bin'}:{os.environ['PATH']}"
    process = subprocess.run(
        [repository / ".ci/run"], env={"PATH": path, **variables}, capture_output=True, text=True, check=True
    )
    return (process.stdout + process.stderr).splitlines()


def test_without_an_engine_it_says_so_and_runs_no_unrelated_program(repository: Path) -> None:
    *commands, message = run_ci(repository)
    assert commands == ALWAYS
    assert message.startswith("The deployment was not tested: no Docker engine runs here, and ")


def test_with_a_running_engine(repository: Path) -> None:
    write_program(repository.parent / "bin/docker", "#!/bin/sh\nexit 0\n")
    assert run_ci(repository) == [*ALWAYS, "make -C deploy build sbom test"]


def test_with_a_helper_that_starts_an_engine(repository: Path) -> None:
    default_helper = write_program(repository.parent / "shared/tools/docker-here")
    assert run_ci(repository)[2:] == [
        "docker-here build -- make -C deploy build sbom", "docker-here run -- make -C deploy test",
    ]  # fmt: skip
    named_helper = write_program(repository.parent / "elsewhere/mine")
    assert run_ci(repository, DOCKER_HELPER=str(named_helper))[2:] == [
        "mine build -- make -C deploy build sbom", "mine run -- make -C deploy test",
    ]  # fmt: skip
    default_helper.chmod(0o644)
    assert run_ci(repository)[2].startswith("The deployment was not tested")
