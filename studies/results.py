"""Reads and writes results files: JSON Lines, one line for each run, which its key "run" names."""

import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from hangtag.serving.loadtest.machine.environment import cpu_model

SIGNIFICANT_DIGITS = 6
"""Pages show four or five digits at most; more would only be noise that changes with every run."""

Line = dict[str, Any]


def read(path: Path) -> dict[str, Line]:
    """The lines of a results file by the names of their runs, in the file's order.

    Raises:
        click.ClickException: the file is missing or unreadable, a line is no JSON object with a "run", or two lines
            name the same run.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read ({error}).") from error
    lines: dict[str, Line] = {}
    for number, row in enumerate(text.splitlines(), start=1):
        try:
            line: Line = json.loads(row)
            name = line["run"]
        except (ValueError, KeyError, TypeError) as error:
            raise click.ClickException(f"{path}, line {number}, is no result of a run ({error!r}).") from error
        if name in lines:
            raise click.ClickException(f"{path}, line {number}, is a second result of the run {name}.")
        lines[name] = line
    return lines


def write(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace the whole file. Floats are rounded to SIGNIFICANT_DIGITS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(_rounded(line)) + "\n" for line in lines))


def record(path: Path, line: Mapping[str, Any]) -> None:
    """Write one line in the place of the line of the same run, or at the end; the other lines stay as they are."""
    lines = read(path) if path.exists() else {}
    write(path, (lines | {line["run"]: dict(line)}).values())


def conditions(command: str, versions: Mapping[str, str]) -> Line:
    """The line "conditions" of a benchmark: its command, day, machine and the versions of the packages it measured."""
    return {
        "run": "conditions",
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "processor": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "versions": dict(versions),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
