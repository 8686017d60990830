"""Read and write results files, which are JSON Lines with a line for each run. The key "run" has the run's name."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from hangtag.serving.loadtest.machine_check import cpu_model

SIGNIFICANT_DIGITS = 6
"""The number of significant digits in results files: one more than any page shows. Further digits would be noise."""

Line = dict[str, Any]


def read(path: Path) -> dict[str, Line]:
    """Return a mapping from each run's name to its line in a results file, in the file's order."""
    lines: list[Line] = [json.loads(row) for row in path.read_text().splitlines()]
    return {line["run"]: line for line in lines}


def write(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole results file, with floats rounded to SIGNIFICANT_DIGITS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(_rounded(line)) + "\n" for line in lines))


def record(path: Path, line: Mapping[str, Any]) -> None:
    """Replace the line in the file that has the same value of "run", or append the line if there is none."""
    lines = read(path) if path.exists() else {}
    write(path, (lines | {line["run"]: dict(line)}).values())


def conditions(versions: Mapping[str, str]) -> Line:
    """Return the line "conditions" of a benchmark: the command, the date, the machine, and the versions of programs."""
    return {
        "run": "conditions",
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        "processor": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "versions": dict(versions),
    }


def command() -> str:
    return shlex.join(["python", "-m", "studies", *sys.argv[1:]])


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return Python's version, and the versions of these packages if they are installed."""
    installed = {"python": platform.python_version()}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):  # pygrpc-native is optional.
            installed[package] = metadata.version(package)
    return installed


def turn(names: Iterable[str], number: int) -> list[str]:
    """Rotate the names, so that each turn begins with the next name."""
    order = list(names)
    first = number % len(order)
    return order[first:] + order[:first]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
