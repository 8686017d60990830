"""The audit of the locks by the real pip-audit: what is found, what is not, and a database that cannot be reached."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from deploy import audit
from deploy.advisories import Advisories, served

ROOT = Path(__file__).parents[2]
PILLOW, NUMPY = "pillow==9.5.0", "numpy==2.0.0"


def record(affected: dict[str, object], name: str = "pillow") -> dict[str, object]:
    """An advisory in OSV's form, made for these tests."""
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
        (folder / f"{index}.yaml").write_text(yaml.safe_dump(one).replace("'", ""))  # unquoted, as in the real database
    (folder / "workflow.yaml").write_text("on: push")
    return folder


def run(
    tmp_path: Path, database: str | Path, *pins: str, more: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the audit on a lock with these packages."""
    locks = tmp_path / "locks"
    locks.mkdir()
    (locks / "cpu.txt").write_text("".join(f"{pin} --hash=sha256:{'0' * 64}\n" for pin in pins))
    code = f"import sys; from pathlib import Path; from deploy import audit; audit.LOCKS = Path({str(locks)!r}); "
    code += "audit.main()"
    return subprocess.run(
        [sys.executable, "-c", code, "--database", str(database), *more],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def report(tmp_path: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads((tmp_path / audit.REPORT).read_text())
    return document


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


def test_a_database_that_cannot_be_reached_is_none_that_knows_of_nothing(tmp_path: Path) -> None:
    with served(Advisories({}, 0, "")) as closed:
        pass
    done = run(tmp_path, closed, PILLOW)
    assert done.returncode == audit.NOT_AUDITED
    assert "NOT AUDITED" in done.stderr
    assert "Connection refused" in done.stderr
    assert not (tmp_path / audit.REPORT).exists()


def test_in_ci_such_a_database_is_reported_and_no_failure(tmp_path: Path) -> None:
    with served(Advisories({}, 0, "")) as closed:
        pass
    done = run(tmp_path, closed, PILLOW, more=("--if-reachable",))
    assert done.returncode == 0
    assert "NOT AUDITED" in done.stderr


def test_a_lock_that_cannot_be_read_fails_with_the_whole_error(tmp_path: Path) -> None:
    with served(Advisories({}, 0, "")) as url:
        done = run(tmp_path, url, "pillow=9.5.0 broken", more=("--if-reachable",))
    assert done.returncode == audit.NOT_AUDITED
    assert "cpu.txt contains invalid specifier at line 1" in done.stderr
    assert "pillow=9.5.0 broken" in done.stderr
    assert not (tmp_path / audit.REPORT).exists()


def test_a_folder_that_is_not_there_fails(tmp_path: Path) -> None:
    done = run(tmp_path, tmp_path / "none", PILLOW, more=("--if-reachable",))
    assert done.returncode == audit.NOT_AUDITED
    assert "none has no OSV records" in done.stderr


@pytest.fixture
def broken() -> Iterator[str]:
    """A service that answers every query with an error."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(503)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_service_that_fails_is_reported(tmp_path: Path, broken: str) -> None:
    done = run(tmp_path, broken, PILLOW, more=("--if-reachable",))
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
