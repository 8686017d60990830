"""The advisories that the repository keeps: what they are about, how they are made, and when the audit reads them."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from deploy import audit
from deploy.advisories import Advisories, AdvisoriesError, served
from deploy.pinned_advisories import LOCKS, PINNED, PinnedAdvisories, locked_packages
from tests.deploy.audits import FIXED, NUMPY, PILLOW, ROOT, advisories, record, report, run

WARNING = f"of {PinnedAdvisories.read(PINNED).date}, "


def test_the_pinned_copy_is_about_every_locked_package() -> None:
    pinned = PinnedAdvisories.read(PINNED)
    assert {"numpy", "pillow", "grpcio"} <= {*pinned.packages}
    pinned.covering(locked_packages(LOCKS.glob("*.txt")))


def test_the_pinned_copy_is_small_and_says_where_it_is_from() -> None:
    pinned = PinnedAdvisories.read(PINNED)
    assert PINNED.stat().st_size < 200_000
    assert len(pinned.commit) == 40
    assert int(pinned.commit, 16)
    assert date.fromisoformat(pinned.date) >= date(2024, 10, 10)
    assert pinned.date >= max(one["modified"] for one in pinned.advisories)[:10]
    assert "CC-BY" in pinned.licence
    assert all(set(Advisories.of([one]).by_package) & {*pinned.packages} for one in pinned.advisories)


def test_without_osv_the_audit_reads_the_pinned_copy_and_says_so(tmp_path: Path, closed: str) -> None:
    done = run(tmp_path, None, PILLOW, NUMPY, osv=closed)
    assert done.returncode == audit.FOUND, done.stderr
    assert "pillow 9.5.0: PYSEC-2023-175 " in done.stdout
    assert f"WARNING: {closed} cannot be reached: " in done.stderr
    assert WARNING in done.stderr
    assert PinnedAdvisories.read(PINNED).commit in str(report(tmp_path)["database"])


def test_a_package_that_the_pinned_copy_knows_nothing_of_passes_with_the_warning(tmp_path: Path, closed: str) -> None:
    done = run(tmp_path, None, "pillow==12.0.0", osv=closed)
    assert done.returncode == 0, done.stderr
    assert WARNING in done.stderr
    assert WARNING in done.stdout


def test_where_osv_answers_the_pinned_copy_is_not_read(tmp_path: Path) -> None:
    with served(Advisories.of([])) as url:
        done = run(tmp_path, None, PILLOW, osv=url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"0 known vulnerabilities in 1 packages, by {url}")
    assert not done.stderr


def test_an_error_of_osv_is_no_reason_to_read_the_pinned_copy(tmp_path: Path, broken: str) -> None:
    done = run(tmp_path, None, PILLOW, osv=broken)
    assert done.returncode == audit.NOT_AUDITED
    assert "503 Server Error" in done.stderr
    assert WARNING not in done.stderr


def test_a_broken_lock_fails_in_the_pinned_copy_too(tmp_path: Path, closed: str) -> None:
    done = run(tmp_path, None, "pillow=9.5.0 broken", osv=closed)
    assert done.returncode == audit.NOT_AUDITED
    assert "cpu.txt contains invalid specifier at line 1" in done.stderr


def test_a_package_that_the_pinned_copy_is_not_about_is_not_taken_for_safe(tmp_path: Path, closed: str) -> None:
    done = run(tmp_path, None, NUMPY, "django==1.0", osv=closed)
    assert done.returncode == audit.NOT_AUDITED
    assert "the pinned copy was made without django: clone https://github.com/pypa" in done.stderr


def test_a_pinned_copy_can_be_named(tmp_path: Path) -> None:
    done = run(tmp_path, PINNED, PILLOW)
    assert done.returncode == audit.FOUND, done.stderr
    (tmp_path / "damaged.json").write_text("{}")
    with pytest.raises(AdvisoriesError, match=r"damaged\.json is no pinned copy of advisories"):
        PinnedAdvisories.read(tmp_path / "damaged.json")


def test_the_copy_is_made_of_a_commit(tmp_path: Path) -> None:
    database = advisories(tmp_path / "database", record(FIXED), record(FIXED, "other") | {"id": "TEST-2"})
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    for arguments in (("init", "--quiet"), ("add", "."), (*identity, "commit", "--quiet", "--message=Records")):
        subprocess.run(["git", "-C", str(database), *arguments], check=True)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/cpu.txt").write_text("Pillow==9.5.0 \\\n    --hash=sha256:00\nuvicorn[standard]==1.0 ; x\n")

    def make() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.pinned_advisories", str(database)]
        options = ["--locks", str(tmp_path / "locks"), "--output", str(tmp_path / "copy.json")]
        return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)

    made = make()
    assert made.returncode == 0, made.stderr
    pinned = PinnedAdvisories.read(tmp_path / "copy.json")
    head = subprocess.run(["git", "-C", str(database), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert pinned.commit == head.stdout.strip()
    assert pinned.packages == ["pillow", "uvicorn"]
    assert [one["id"] for one in pinned.advisories] == ["TEST-1"]
    assert pinned.advisories == json.loads((tmp_path / "copy.json").read_text())["advisories"]

    (database / "0.yaml").write_text("changed: yes")
    refused = make()
    assert refused.returncode == 1
    assert "has changes that are not committed" in refused.stderr
