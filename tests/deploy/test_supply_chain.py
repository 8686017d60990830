"""An SBOM lists the installed packages, and an audit finds their known vulnerabilities."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import audit
from deploy.pinned_advisories import LOCKS, PINNED, AdvisoriesError, PinnedAdvisories, is_affected, locked_packages
from deploy.sbom import add_debian_packages
from tests.kit.command import ROOT, invoke
from tests.kit.other_servers import refusing, web_server

WITHOUT_MAKE = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
PILLOW, NUMPY, BROKEN_LOCK = "pillow==9.5.0", "numpy==2.0.0", "pillow=9.5.0 broken"
WARNING = f"({PinnedAdvisories.read(PINNED).date}, "


def record(affected: dict[str, object], name: str = "pillow") -> dict[str, object]:
    """An advisory in OSV's form, written for these tests."""
    return {
        "id": "TEST-1",
        "modified": "2026-01-02T03:04:05Z",
        "published": "2025-12-31T23:59:59Z",
        "aliases": ["CVE-0000-1"],
        "summary": "a picture may take all memory",
        "affected": [{"package": {"ecosystem": "PyPI", "name": name}} | affected],
    }


def events(*pairs: dict[str, str]) -> dict[str, object]:
    return {"ranges": [{"type": "ECOSYSTEM", "events": list(pairs)}]}


FIXED = events({"introduced": "0"}, {"fixed": "10.0.0"})


def advisories(folder: Path, *records: dict[str, object]) -> Path:
    folder.mkdir()
    for index, one in enumerate(records):
        (folder / f"{index}.yaml").write_text(yaml.safe_dump(one).replace("'", ""))  # OSV's files do not quote values
    (folder / "workflow.yaml").write_text("on: push")
    return folder


@pytest.fixture(scope="module")
def services() -> Iterator[dict[str, str]]:
    """The URLs of stand-ins for OSV: two answer, one fails, one sends no JSON, and one refuses connections."""
    vulnerable, withdrawn = ({"vulns": [record(FIXED) | more]} for more in ({}, {"withdrawn": "2026-02-03"}))
    with ExitStack() as stack:

        def service(status: int, body: bytes) -> str:
            return f"http://{stack.enter_context(web_server(lambda _path: (status, {}, body)))}/"

        yield {
            "vulnerable": service(200, json.dumps(vulnerable).encode()),
            "withdrawn": service(200, json.dumps(withdrawn).encode()),
            "safe": service(200, b"{}"),
            "failing": service(503, b""),
            "broken": service(200, b"<html>"),
            "closed": f"http://{stack.enter_context(refusing())}/",
        }


@dataclass(frozen=True)
class Case:
    """An audit: its input, and its result.

    Args:
        osv: The name that ``services`` gives the stand-in for OSV.
        packages: The locked packages.
        code: The exit code.
        printed: The text on standard output.
        warned: The text on standard error.
    """

    osv: str
    packages: tuple[str, ...]
    code: int
    printed: str = ""
    warned: str = ""


@pytest.mark.parametrize(
    "case",
    [
        Case("vulnerable", (PILLOW,), audit.FOUND, "pillow 9.5.0: TEST-1 CVE-0000-1, fixed in 10.0.0. a picture"),
        Case("withdrawn", (PILLOW,), 0, "0 known vulnerabilities in 1 packages"),
        Case("safe", (PILLOW, NUMPY), 0, "0 known vulnerabilities in 2 packages, by http://127.0.0.1"),
        Case("failing", (PILLOW,), audit.NOT_AUDITED, warned="HTTP Error 503"),
        Case("broken", (PILLOW,), audit.NOT_AUDITED, warned="Expecting value"),
        Case("safe", (BROKEN_LOCK,), audit.NOT_AUDITED, warned="cpu.txt: pillow=9.5.0: "),
        # If OSV is unreachable, the audit reads the pinned copy.
        Case("closed", (PILLOW, NUMPY), audit.FOUND, "pillow 9.5.0: PYSEC-2023-175, fixed in 10.0.1", WARNING),
        Case("closed", ("pillow==12.0.0",), 0, WARNING, WARNING),
        Case("closed", (NUMPY, "django==1.0"), audit.NOT_AUDITED, warned="the pinned copy does not cover django"),
    ],
    ids=lambda case: f"{case.osv}, {case.packages[-1]}",
)
def test_the_audit_finds_what_is_known_and_takes_no_silence_for_safety(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, services: dict[str, str], case: Case
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/cpu.txt").write_text("".join(f"{pin} --hash=sha256:{'0' * 64}\n" for pin in case.packages))
    done = invoke("--locks", "locks", "--osv", services[case.osv], command=audit.main, exit_code=None)
    assert done.exit_code == case.code, done.output
    assert case.printed in done.stdout
    assert case.warned in done.stderr
    assert bool(case.warned) == bool(done.stderr)
    assert ("NOT AUDITED" in done.stderr) == (case.code == audit.NOT_AUDITED)
    assert audit.REPORT.exists() == (case.code != audit.NOT_AUDITED)
    if audit.REPORT.exists():
        written = json.loads(audit.REPORT.read_text())
        assert written["packages"] == len(case.packages)
        assert bool(written["vulnerabilities"]) == (case.code == audit.FOUND)
        database = PinnedAdvisories.read(PINNED).commit if case.osv == "closed" else services[case.osv]
        assert database in written["database"]


@pytest.mark.parametrize(
    ("affected", "vulnerable", "safe"),
    [
        ({"versions": ["9.5.0"]}, ["9.5.0"], ["9.4.0", "9.5.1"]),
        (events({"introduced": "9.1"}, {"fixed": "9.6"}), ["9.1.0", "9.5.9"], ["9.0", "9.6", "9.6.0"]),
        (events({"introduced": "0"}, {"last_affected": "9.5"}), ["1.0", "9.5.0"], ["9.5.1"]),
        (
            events({"introduced": "1"}, {"fixed": "2"}, {"introduced": "9"}, {"fixed": "9.10"}),
            ["1.5", "9.9"],
            ["2.0", "8", "9.10"],
        ),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, [], ["9.5.0"]),
    ],
)
def test_versions_are_compared_as_osv_defines(
    affected: dict[str, object], vulnerable: list[str], safe: list[str]
) -> None:
    one = record(affected, "Pillow")
    assert [version for version in [*vulnerable, *safe] if is_affected(one, ("pillow", version))] == vulnerable
    assert not any(is_affected(one, ("other", version)) for version in vulnerable)


def test_the_pinned_copy_is_about_every_locked_package_small_and_says_where_it_is_from(tmp_path: Path) -> None:
    pinned = PinnedAdvisories.read(PINNED)
    pinned.about(sorted(locked_packages(LOCKS.glob("*.txt"))))
    assert PINNED.stat().st_size < 200_000
    assert len(bytes.fromhex(pinned.commit)) == 20
    assert date.fromisoformat(pinned.date) >= date(2024, 10, 10)
    assert pinned.date >= max(one["modified"] for one in pinned.advisories)[:10]
    assert "CC-BY" in pinned.licence
    for one in pinned.advisories:
        assert {canonicalize_name(part["package"]["name"]) for part in one["affected"]} & {*pinned.packages}
    (tmp_path / "damaged.json").write_text("{}")
    with pytest.raises(AdvisoriesError, match=r"damaged\.json is not a pinned copy of advisories"):
        PinnedAdvisories.read(tmp_path / "damaged.json")


@pytest.mark.supply_chain
def test_the_copy_is_made_of_a_commit(tmp_path: Path) -> None:
    database = advisories(tmp_path / "database", record(FIXED), record(FIXED, "other") | {"id": "TEST-2"})
    git = ["git", "-C", str(database), "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=Records"]):
        subprocess.run([*git, *arguments], check=True)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/cpu.txt").write_text("Pillow==9.5.0 \\\n    --hash=sha256:00\nuvicorn[standard]==1.0\n")

    def make() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.pinned_advisories", str(database)]
        options = ["--locks", str(tmp_path / "locks"), "--output", str(tmp_path / "copy.json")]
        return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)

    done = make()
    assert done.returncode == 0, done.stderr
    pinned = PinnedAdvisories.read(tmp_path / "copy.json")
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert pinned.commit == head.stdout.strip()
    assert pinned.packages == ["pillow", "uvicorn"]
    assert [one["id"] for one in pinned.advisories] == ["TEST-1"]
    (database / "0.yaml").write_text("changed: yes")
    refused = make()
    assert refused.returncode == 1
    assert "has changes that are not committed" in refused.stderr


def make(*arguments: str) -> str:
    command = ["make", "-C", str(ROOT / "deploy"), *arguments]
    return subprocess.run(command, env=WITHOUT_MAKE, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_debian_packages_are_added_to_the_sbom_of_an_image() -> None:
    python_sbom = {"bomFormat": "CycloneDX", "components": [{"name": "numpy"}]}
    sbom = add_debian_packages(python_sbom, "libstdc++6\t14.2.0-19\tamd64\ntzdata\t2025b-4+deb13u1\tall\n")
    assert sbom["bomFormat"] == "CycloneDX"
    assert [component["name"] for component in sbom["components"]] == ["numpy", "libstdc++6", "tzdata"]
    assert sbom["components"][1]["purl"] == "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64&distro=trixie"
    assert len({component.get("bom-ref") for component in sbom["components"]}) == 3


@pytest.mark.supply_chain
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
    """Return the digests in a lock file, by package name and version."""
    packages = {}
    for entry in lock.read_text().replace("\\\n", " ").splitlines():
        if entry[:1].isalnum():
            requirement, *digests = entry.split("--hash=sha256:")
            package = Requirement(requirement)
            version = str(package.specifier).removeprefix("==")
            packages[package.name, version] = {digest.strip() for digest in digests}
    assert packages
    return packages
