"""Reads and writes the files of a run. A file is replaced as a whole, so a kill leaves the old one or the new one."""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hangtag.training.errors import RunMismatchError

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


def read_json(path: Path) -> dict[str, Any]:
    """Raises RunMismatchError for a file that is missing, unreadable, or not a JSON object."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunMismatchError(f"{path} cannot be read ({error}). {RESTART_HINT}") from error
    if not isinstance(value, dict):
        raise RunMismatchError(f"{path} holds no JSON object. {RESTART_HINT}")
    return value


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values with torch.save. Raises RunMismatchError if the file cannot be written."""
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
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # torch.load does not verify the archive's checksums
    if damaged is not None:
        raise ValueError(f"{damaged} does not match its checksum")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise TypeError("it holds no state")
    return state
