"""Reads and writes the files of a run. A file is replaced as a whole, so a kill leaves the old one or the new one.

Importing this needs no torch: 'hangtag runs' reads JSON alone.
"""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hangtag.training.errors import RunMismatchError

FILES = ("checkpoint.pt", "teacher.pt", "best.pt", "metrics.json", "config.json", "report.html")
REPORT = "report.html"
EVENT_FILES = "events.out.tfevents.*"
RESTART_HINT = "'hangtag train' with --restart replaces the run."


@contextmanager
def reporting_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a RunMismatchError that names the path."""
    try:
        yield
    except OSError as error:
        raise RunMismatchError(f"{path} cannot be written ({error.strerror}).") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Raises RunMismatchError if the file cannot be written."""
    temporary = path.with_name(f"{path.name}.tmp")
    with reporting_write_errors(path):
        temporary.write_text(json.dumps(value, indent=1) + "\n")
        temporary.replace(path)


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config's settings by their whole names: {"recipe": {"epochs": 10}} as {"recipe.epochs": 10}."""
    result: dict[str, Any] = {}
    for key, item in value.items():
        result |= flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return result


def read_json(path: Path) -> dict[str, Any]:
    """Raises RunMismatchError for a file that is missing, unreadable, or not a JSON object."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunMismatchError(f"{path} cannot be read ({error}). {RESTART_HINT}") from error
    if not isinstance(value, dict):
        raise RunMismatchError(f"{path} holds no JSON object. {RESTART_HINT}")
    return value


def read_metrics(folder: Path) -> dict[str, Any]:
    """The content of a run's metrics.json; before the first epoch, no rows. Raises as read_json does."""
    path = folder / "metrics.json"
    return read_json(path) if path.is_file() else {"epochs": []}


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values with torch.save. Raises RunMismatchError if the file cannot be written."""
    import torch

    temporary = path.with_name(f"{path.name}.tmp")
    with reporting_write_errors(path):
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def load_state(path: Path) -> dict[str, Any]:
    """A state that save_state wrote, on the CPU. Raises RunMismatchError for a file that is missing or damaged."""
    try:
        return _load_checked(path)
    except Exception as error:  # torch.load raises all kinds of exceptions for a damaged file
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunMismatchError(f"{path} cannot be read as a checkpoint ({reason}). {RESTART_HINT}") from error


def _load_checked(path: Path) -> dict[str, Any]:
    import torch

    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # torch.load does not verify the archive's checksums
    if damaged is not None:
        raise ValueError(f"{damaged} does not match its checksum")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise TypeError("it holds no state")
    return state
