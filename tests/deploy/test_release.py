"""A release has one version number, a changelog entry, and lock files that satisfy pyproject.toml. CI tests deploy/."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.kit.command import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"cpu": ("cpu", "otel", "stores"), "gpu": ("gpu", "otel", "stores"), "client": ("loadtest",)}


def test_the_version_is_stated_in_pyproject_alone() -> None:
    assert version("hangtag") == PROJECT["version"]
    copy = re.compile(rf"\b(hangtag|version)\W+{re.escape(PROJECT['version'])}\b")
    patterns = ("hangtag/*.py", "serving/**/*.py", "deploy/**/*.y*ml", "deploy/Dockerfile", "docker-compose.yml")
    files = [path for pattern in patterns for path in ROOT.glob(pattern)]
    assert [path for path in files if copy.search(path.read_text())] == []


def test_the_changelog_has_an_entry_for_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = dict(re.findall(r"^## \[([^]]+)\][^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert (sections.get(PROJECT["version"]) or sections["Unreleased"]).strip()
    released = [Version(name) for name in sections if name != "Unreleased"]
    assert released == sorted(released, reverse=True)
    assert all(re.search(rf"^## \[{name}\] - \d{{4}}-\d\d-\d\d$", text, re.M) for name in map(str, released))


CHANGELOG = """# Changelog
## [Unreleased]

## [1.1.0] - 2026-01-02

- A change.

## [1.0.0] - 2025-01-02

- The first.
"""
UPGRADING = "# Upgrading\n\n## From 1.0.0 to 1.1.0\n\nNothing.\n"


def check_release(root: Path, version: str, changelog: str, upgrading: str) -> subprocess.CompletedProcess[str]:
    """Runs the first steps of `make release-check` in a folder with these documents."""
    (root / "docs/how-to").mkdir(parents=True)
    (root / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
    (root / "CHANGELOG.md").write_text(changelog)
    (root / "docs/how-to/upgrade.md").write_text(upgrading)
    command = [sys.executable, "-m", "deploy.release", str(root)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_release_that_is_cut_passes(tmp_path: Path) -> None:
    done = check_release(tmp_path, "1.1.0", CHANGELOG, UPGRADING)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("version", "changelog", "upgrading", "fault"),
    [
        ("1.2.0", CHANGELOG, UPGRADING.replace("1.1.0", "1.2.0"), "CHANGELOG.md has no section [1.2.0]"),
        ("1.0.0", CHANGELOG, UPGRADING.replace("1.1.0", "1.0.0"), "CHANGELOG.md has 1.1.0 above 1.0.0"),
        ("1.1.0", CHANGELOG.replace(" - 2026-01-02", ""), UPGRADING, "the heading of [1.1.0] has no date"),
        ("1.1.0", CHANGELOG.replace("- A change.", ""), UPGRADING, "the section [1.1.0] is empty"),
        ("1.1.0", CHANGELOG.replace("d]\n", "d]\n- More.\n", 1), UPGRADING, "the section [Unreleased] is not empty"),
        ("1.1.0", CHANGELOG, UPGRADING.replace("1.1.0", "1.1.0rc1"), "no section 'From … to 1.1.0'"),
    ],
)
def test_a_release_that_is_not_cut_fails_by_what_is_missing(
    tmp_path: Path, version: str, changelog: str, upgrading: str, fault: str
) -> None:
    done = check_release(tmp_path, version, changelog, upgrading)
    assert done.returncode == 1
    (message,) = done.stderr.splitlines()
    assert fault in message


def test_make_release_check_stops_at_a_release_that_is_not_cut(tmp_path: Path) -> None:
    """The script stops before it builds and installs the release."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets", "__pycache__"))
    assert check_release(tmp_path, "1.2.0", CHANGELOG, UPGRADING).returncode == 1
    script = ["bash", str(tmp_path / "deploy/release-check.sh")]
    environment = {**os.environ, "BIN": str(Path(sys.executable).parent)}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "CHANGELOG.md has no section [1.2.0]" in done.stderr
    assert "sdist" not in done.stdout


def locked_versions(name: str) -> dict[str, Version]:
    lines = (ROOT / f"deploy/locks/{name}.txt").read_text()
    return {match[1]: Version(match[2]) for match in re.finditer(r"^([a-z0-9-]+)==([^ ;]+)", lines, re.M)}


@pytest.mark.parametrize("name", EXTRAS)
def test_the_lock_satisfies_pyproject(name: str) -> None:
    pins = locked_versions(name)
    requirements = [*map(Requirement, PROJECT["dependencies"])]
    extras = [*EXTRAS[name]]
    for extra in extras:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            if requirement.name == PROJECT["name"]:
                extras += requirement.extras  # an extra may contain other extras
            else:
                requirements.append(requirement)
    for requirement in requirements:
        assert requirement.name in pins, f"{requirement.name} is not locked: run 'make -C deploy lock'"
        assert pins[requirement.name] in requirement.specifier, f"{requirement}: run 'make -C deploy lock'"
    assert not {"torch", "onnx", "torchvision"} & pins.keys()


@pytest.mark.parametrize("path", sorted((ROOT / "deploy/locks").glob("*.txt")), ids=lambda path: path.stem)
def test_every_locked_package_has_hashes(path: Path) -> None:
    entries = re.split(r"\n(?=[a-z0-9-]+==)", path.read_text())[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)


ALWAYS = ["make test", "make site", "make -C deploy audit"]
PRINT_COMMAND = '#!/bin/sh\necho "$(basename "$0") $*"\n'


def write_program(path: Path, text: str = PRINT_COMMAND) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of .ci, and an unrelated folder with the program tools/docker-here."""
    shutil.copytree(ROOT / ".ci", tmp_path / "repository/.ci")
    write_program(tmp_path / "bin/make")
    write_program(tmp_path / "bin/docker", "#!/bin/sh\nexit 1\n")
    write_program(tmp_path / "unrelated/tools/docker-here")
    return tmp_path / "repository"


def run_ci(repository: Path, **variables: str) -> list[str]:
    """Runs .ci/run and returns the lines that it prints: the commands that it called, followed by its messages."""
    path = f"{repository.parent / 'bin'}:{os.environ['PATH']}"
    process = subprocess.run(
        [repository / ".ci/run"], env={"PATH": path, **variables}, capture_output=True, text=True, check=True
    )
    return (process.stdout + process.stderr).splitlines()


def test_without_an_engine_it_says_so_and_runs_no_unrelated_program(repository: Path) -> None:
    *commands, message = run_ci(repository)
    assert commands == ALWAYS
    assert message.startswith("The deployment was not tested: no Docker engine runs here, and ")
    write_program(repository.parent / "shared/tools/docker-here").chmod(0o644)
    assert run_ci(repository) == [*ALWAYS, message]


def test_with_a_running_engine(repository: Path) -> None:
    write_program(repository.parent / "bin/docker", "#!/bin/sh\nexit 0\n")
    assert run_ci(repository) == [*ALWAYS, "make -C deploy build sbom test"]


@pytest.mark.parametrize("helper", ["shared/tools/docker-here", "elsewhere/mine"])
def test_with_a_helper_that_starts_an_engine(repository: Path, helper: str) -> None:
    write_program(repository.parent / "shared/tools/docker-here")
    program = write_program(repository.parent / helper)  # DOCKER_HELPER has precedence over docker-here
    variables = {} if helper.startswith("shared") else {"DOCKER_HELPER": str(program)}
    calls = [f"{program.name} build -- make -C deploy build sbom", f"{program.name} run -- make -C deploy test"]
    assert run_ci(repository, **variables) == [*ALWAYS, *calls]
