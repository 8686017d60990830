"""Runs the audit in a process of its own, on a lock and a database that are made for a test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from deploy import audit

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
    tmp_path: Path, database: str | Path | None, *pins: str, osv: str = "no URL"
) -> subprocess.CompletedProcess[str]:
    """Run the audit on a lock with these packages; without a database as by default, with this URL for OSV's."""
    locks = tmp_path / "locks"
    locks.mkdir()
    (locks / "cpu.txt").write_text("".join(f"{pin} --hash=sha256:{'0' * 64}\n" for pin in pins))
    code = f"import sys; from pathlib import Path; from deploy import audit; audit.LOCKS = Path({str(locks)!r}); "
    code += f"audit.OSV = {osv!r}; audit.main()"
    return subprocess.run(
        [sys.executable, "-c", code, *(("--database", str(database)) if database else ())],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def report(tmp_path: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads((tmp_path / audit.REPORT).read_text())
    return document
