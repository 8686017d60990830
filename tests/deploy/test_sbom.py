"""The SBOM of an image lists its Debian packages next to its Python packages, and the wheel's SBOMs list its locks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.sbom import add_debian_packages

ROOT = Path(__file__).parents[2]
WITHOUT_MAKE = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def make(*arguments: str) -> str:
    command = ["make", "-C", str(ROOT / "deploy"), *arguments]
    return subprocess.run(command, env=WITHOUT_MAKE, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_debian_packages_are_added() -> None:
    python_sbom = {"bomFormat": "CycloneDX", "components": [{"name": "numpy"}]}
    sbom = add_debian_packages(python_sbom, "libstdc++6\t14.2.0-19\tamd64\ntzdata\t2025b-4+deb13u1\tall\n")
    assert sbom["bomFormat"] == "CycloneDX"
    assert [component["name"] for component in sbom["components"]] == ["numpy", "libstdc++6", "tzdata"]
    assert sbom["components"][1]["purl"] == "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64&distro=trixie"
    assert len({component.get("bom-ref") for component in sbom["components"]}) == 3


@pytest.mark.slow
def test_the_wheel_s_sboms_list_every_locked_package_with_its_version_and_digests(tmp_path: Path) -> None:
    make("wheel-sboms", f"BIN={Path(sys.executable).parent}", f"DIST={tmp_path}")
    assert len(list(tmp_path.iterdir())) == 3
    for lock in ("cpu", "gpu", "client"):
        (file,) = tmp_path.glob(f"hangtag-*-{lock}.cdx.json")
        sbom = json.loads(file.read_text())
        assert sbom["metadata"]["component"]["name"] == "hangtag"
        listed = {
            (part["name"], part["version"]): {
                digest["content"] for source in part["externalReferences"] for digest in source.get("hashes", ())
            }
            for part in sbom["components"]
        }
        assert listed == locked(ROOT / f"deploy/locks/{lock}.txt")


def locked(lock: Path) -> dict[tuple[str, str], set[str]]:
    """Return the digests of every name and version."""
    packages = {}
    for entry in lock.read_text().replace("\\\n", " ").splitlines():
        if entry[:1].isalnum():
            requirement, *digests = entry.split("--hash=sha256:")
            package = Requirement(requirement)
            version = str(package.specifier).removeprefix("==")
            packages[package.name, version] = {digest.strip() for digest in digests}
    assert packages
    return packages


def test_make_sbom_makes_the_wheel_s_sboms_and_then_the_images() -> None:
    commands = make("--dry-run", "sbom")
    assert 0 < commands.find("uv build") < commands.find("cyclonedx_py") < commands.find("docker build")


def test_make_wheel_needs_no_docker() -> None:
    commands = make("--dry-run", "wheel")
    assert "cyclonedx_py" in commands
    assert "sha256sum" in commands
    assert "docker" not in commands
