"""The list of what the image is made of."""

from deploy.sbom import merged


def test_debian_packages_are_added_to_python_s() -> None:
    sbom = {"bomFormat": "CycloneDX", "components": [{"name": "numpy"}]}
    made = merged(sbom, "libstdc++6\t14.2.0-19\tamd64\ntzdata\t2025b-4+deb13u1\tall\n")
    assert made["bomFormat"] == "CycloneDX"
    assert [component["name"] for component in made["components"]] == ["numpy", "libstdc++6", "tzdata"]
    assert made["components"][1]["purl"] == "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64&distro=trixie"
    assert len({component.get("bom-ref") for component in made["components"]}) == 3
