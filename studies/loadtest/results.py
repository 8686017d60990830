"""What the two benchmarks found, in one file: each part with what it was measured on and by which command."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hangtag.serving.loadtest.measuring.environment import describe
from studies.loadtest.tools import PEERS

FILE = Path(__file__).parent / "results.json"
Part = dict[str, Any]


def about(command: str) -> Part:
    """What a part begins with: the command, the day, the machine and the versions."""
    return {"command": command, "date": datetime.now(UTC).date().isoformat(), "environment": describe()}


def tool_versions() -> dict[str, str]:
    """Those of perf_analyzer and h2load, as they tell them."""
    analyzer = _said(str(PEERS / "perf_analyzer"), "--version").removeprefix("Perf Analyzer Version ")
    return {"perf_analyzer": analyzer, "h2load": _said("h2load", "--version").removeprefix("h2load ")}


def keep(part: str, found: Part, file: Path = FILE) -> None:
    """Write one part; the others stay as they are."""
    document = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(document | {part: found}, indent=1) + "\n")


def _said(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return (ended.stdout + ended.stderr).strip()
