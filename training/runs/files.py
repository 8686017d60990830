"""The files of a run, by their names, and how those of JSON are read. Needs no torch, for 'hangtag runs'."""

import json
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


def short_name(network: str) -> str:
    """A name for folders and models, such as resnet18 for timm:resnet18 and build for nets:build."""
    return network.rpartition(":")[2].replace(".", "-").lower()
