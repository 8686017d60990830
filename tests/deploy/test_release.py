"""A release has one version, a changelog entry for it, and locks that satisfy pyproject.toml."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"cpu": ("cpu", "otel"), "gpu": ("gpu", "otel"), "client": ("loadtest",)}


def test_the_version_is_stated_in_pyproject_alone() -> None:
    assert version("hangtag") == PROJECT["version"]
    copies = [
        path
        for pattern in (
            "hangtag/*.py",
            "serving/**/*.py",
            "deploy/**/*.y*ml",
            "deploy/Dockerfile",
            "docker-compose.yml",
        )
        for path in ROOT.glob(pattern)
        if re.search(rf"\b(hangtag|version)\W+{re.escape(PROJECT['version'])}\b", path.read_text())
    ]
    assert copies == []


def test_the_changelog_has_an_entry_for_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = dict(re.findall(r"^## \[([^]]+)\][^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert (sections.get(PROJECT["version"]) or sections["Unreleased"]).strip()
    released = [Version(name) for name in sections if name != "Unreleased"]
    assert released == sorted(released, reverse=True)
    assert all(re.search(rf"^## \[{name}\] - \d{{4}}-\d\d-\d\d$", text, re.M) for name in map(str, released))


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
                extras += requirement.extras  # an extra may have others in it
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
