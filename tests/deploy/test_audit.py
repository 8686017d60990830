"""The audit of the locks by the real pip-audit: what is found, what is not, and a database that cannot be used."""

from pathlib import Path

import pytest

from deploy import audit
from deploy.advisories import Advisories, served
from tests.deploy.audits import FIXED, NUMPY, PILLOW, advisories, events, record, report, run


def test_a_vulnerability_that_is_known_fails_the_audit(tmp_path: Path) -> None:
    done = run(tmp_path, advisories(tmp_path / "copy", record(FIXED)), PILLOW, NUMPY)
    assert done.returncode == audit.FOUND, done.stderr
    assert "pillow 9.5.0: CVE-0000-1 TEST-1, fixed in 10.0.0. a picture may take all memory" in done.stdout
    written = report(tmp_path)
    assert written["packages"] == 2
    assert len(written["vulnerabilities"]) == 1  # type: ignore[arg-type]
    assert "2026-01-02" in str(written["database"])  # the copy's date


def test_a_release_with_the_fix_passes(tmp_path: Path) -> None:
    done = run(tmp_path, advisories(tmp_path / "copy", record(FIXED)), "pillow==10.0.0")
    assert done.returncode == 0, done.stderr
    assert report(tmp_path)["vulnerabilities"] == []


def test_a_database_that_cannot_be_reached_is_none_that_knows_of_nothing(tmp_path: Path, closed: str) -> None:
    done = run(tmp_path, closed, PILLOW)
    assert done.returncode == audit.NOT_AUDITED
    assert "NOT AUDITED" in done.stderr
    assert "Connection refused" in done.stderr
    assert not (tmp_path / audit.REPORT).exists()


def test_a_lock_that_cannot_be_read_fails_with_the_whole_error(tmp_path: Path) -> None:
    with served(Advisories.of([])) as url:
        done = run(tmp_path, url, "pillow=9.5.0 broken")
    assert done.returncode == audit.NOT_AUDITED
    assert "cpu.txt contains invalid specifier at line 1" in done.stderr
    assert "pillow=9.5.0 broken" in done.stderr
    assert not (tmp_path / audit.REPORT).exists()


def test_a_folder_that_is_not_there_fails(tmp_path: Path) -> None:
    done = run(tmp_path, tmp_path / "none", PILLOW)
    assert done.returncode == audit.NOT_AUDITED
    assert "none has no OSV records" in done.stderr


def test_a_service_that_fails_is_reported(tmp_path: Path, broken: str) -> None:
    done = run(tmp_path, broken, PILLOW)
    assert done.returncode == audit.NOT_AUDITED
    assert "NOT AUDITED" in done.stderr
    assert "503 Server Error" in done.stderr


def test_a_folder_without_records_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, advisories(tmp_path / "copy"), PILLOW)
    assert done.returncode == audit.NOT_AUDITED
    assert "has no OSV records" in done.stderr


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
    tmp_path: Path, affected: dict[str, object], vulnerable: list[str], safe: list[str]
) -> None:
    copy = Advisories.read(advisories(tmp_path / "copy", record(affected), record(affected, "other")))
    assert copy.count == 2
    assert [version for version in [*vulnerable, *safe] if len(copy.about("pillow", version)) == 1] == vulnerable
