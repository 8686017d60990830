"""Adds an image's Debian packages to the SBOM (CycloneDX, JSON) of its Python packages, and prints the result.

    python3 sbom.py PYTHON.json PACKAGES.tsv >SBOM.json

The build of the image runs this program, which needs only the standard library.
"""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote


def add_debian_packages(sbom: dict[str, Any], packages: str) -> dict[str, Any]:
    """Returns a copy of the CycloneDX document with one more component for each Debian package.

    Args:
        sbom: a CycloneDX document.
        packages: one line per package, with name, version and architecture separated by tabs (dpkg-query's output).
    """
    components = [_component(*line.split("\t")) for line in packages.splitlines()]
    return {**sbom, "components": [*sbom.get("components", []), *components]}


def _component(name: str, version: str, architecture: str) -> dict[str, Any]:
    # https://github.com/package-url/purl-spec, type deb
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}&distro=trixie"
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


if __name__ == "__main__":
    python_sbom = json.loads(Path(sys.argv[1]).read_text())
    json.dump(add_debian_packages(python_sbom, Path(sys.argv[2]).read_text()), sys.stdout, indent=1)
