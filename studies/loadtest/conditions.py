"""Describes what a measurement of the load test was made with: its command, day, machine and versions."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

from hangtag.serving.loadtest.machine.environment import describe
from studies import results
from studies.loadtest.tools import PEERS

RESULTS = Path(__file__).with_name("results.jsonl")


def line(run: str, command: str) -> results.Line:
    """The beginning of a results line."""
    environment = describe()
    return {
        "run": run,
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "environment": {key: environment[key] for key in ("CPU", "CPUs usable", "grpcio")},
    }


def tool_versions() -> dict[str, str]:
    """The versions of perf_analyzer and h2load."""
    analyzer = _output(str(PEERS / "perf_analyzer"), "--version").removeprefix("Perf Analyzer Version ")
    return {"perf_analyzer": analyzer, "h2load": _output("h2load", "--version").removeprefix("h2load ")}


def _output(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return (finished.stdout + finished.stderr).strip()
