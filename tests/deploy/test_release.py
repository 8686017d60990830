"""What a release needs: one version, a changelog that speaks of it, locks that fit what pyproject.toml asks for."""

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


def test_the_version_is_in_one_place() -> None:
    assert version("hangtag") == PROJECT["version"]
    elsewhere = [
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
    assert elsewhere == []


def test_the_changelog_speaks_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = dict(re.findall(r"^## \[([^]]+)\][^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert (sections.get(PROJECT["version"]) or sections["Unreleased"]).strip()
    released = [Version(name) for name in sections if name != "Unreleased"]
    assert released == sorted(released, reverse=True)
    assert all(re.search(rf"^## \[{name}\] - \d{{4}}-\d\d-\d\d$", text, re.M) for name in map(str, released))


def locked(name: str) -> dict[str, Version]:
    lines = (ROOT / f"deploy/locks/{name}.txt").read_text()
    return {found[1]: Version(found[2]) for found in re.finditer(r"^([a-z0-9-]+)==([^ ;]+)", lines, re.M)}


@pytest.mark.parametrize("name", EXTRAS)
def test_the_lock_fits_pyproject(name: str) -> None:
    pins = locked(name)
    wanted = [*PROJECT["dependencies"]]
    for extra in EXTRAS[name]:
        wanted += PROJECT["optional-dependencies"][extra]
    for requirement in map(Requirement, wanted):
        assert requirement.name in pins, f"{requirement.name} is not locked: run 'make -C deploy lock'"
        assert pins[requirement.name] in requirement.specifier, f"{requirement}: run 'make -C deploy lock'"
    assert not {"torch", "onnx", "torchvision"} & pins.keys()


@pytest.mark.parametrize("path", sorted((ROOT / "deploy/locks").glob("*.txt")), ids=lambda path: path.stem)
def test_everything_locked_has_hashes(path: Path) -> None:
    entries = re.split(r"\n(?=[a-z0-9-]+==)", path.read_text())[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
