"""The SBOM of an image lists its Debian packages next to its Python packages."""

from deploy.sbom import add_debian_packages


def test_debian_packages_are_added() -> None:
    python_sbom = {"bomFormat": "CycloneDX", "components": [{"name": "numpy"}]}
    sbom = add_debian_packages(python_sbom, "libstdc++6\t14.2.0-19\tamd64\ntzdata\t2025b-4+deb13u1\tall\n")
    assert sbom["bomFormat"] == "CycloneDX"
    assert [component["name"] for component in sbom["components"]] == ["numpy", "libstdc++6", "tzdata"]
    assert sbom["components"][1]["purl"] == "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64&distro=trixie"
    assert len({component.get("bom-ref") for component in sbom["components"]}) == 3
