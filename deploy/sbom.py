"""Adds an image's Debian packages to the CycloneDX list of its Python packages.

    python3 sbom.py PYTHON.json PACKAGES.tsv >SBOM.json

Runs in the image's build, with the standard library alone.
"""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote


def merged(sbom: dict[str, Any], packages: str) -> dict[str, Any]:
    """packages: a line each, of name, version and architecture with tabs between them, as dpkg-query shows them."""
    components = [_component(*line.split("\t")) for line in packages.splitlines()]
    return {**sbom, "components": [*sbom.get("components", []), *components]}


def _component(name: str, version: str, architecture: str) -> dict[str, Any]:
    # https://github.com/package-url/purl-spec, type deb
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}&distro=trixie"
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


if __name__ == "__main__":
    json.dump(merged(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]).read_text()), sys.stdout, indent=1)
