"""The model repository on disk, in Triton's layout: <models>/<name>/<version>/model.onnx, a version a whole number."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.server.errors import RepositoryError

MODEL_FILE = "model.onnx"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True)
class ModelFile:
    """One version of one model, as it lies on disk."""

    name: str
    version: int
    path: Path


def latest_versions(models: Path) -> list[ModelFile]:
    """The highest version of each model, by name. Raises RepositoryError when there is nothing to serve."""
    if not models.is_dir():
        raise RepositoryError(
            f"{models} is not a folder. Name the model repository with --models; 'hangtag export' fills one."
        )
    found = [model for folder in sorted(models.iterdir()) if (model := _latest(folder))]
    if not found:
        raise RepositoryError(
            f"{models} holds no model: expected {models}/<name>/<version>/{MODEL_FILE}, the version a whole number "
            "from 1. 'hangtag export' publishes one."
        )
    return found


def _latest(folder: Path) -> ModelFile | None:
    if not _NAME.fullmatch(folder.name) or not folder.is_dir():
        return None  # hidden folders, and files that happen to lie there
    versions = sorted(_versions(folder), key=lambda model: model.version)
    if not versions:
        raise RepositoryError(
            f"{folder} has no version to serve: expected {folder}/<version>/{MODEL_FILE}, the version a whole number "
            "from 1. Publish one, or move the folder out of the repository."
        )
    return versions[-1]


def _versions(folder: Path) -> Iterator[ModelFile]:
    for version in folder.iterdir():
        if _VERSION.fullmatch(version.name) and (version / MODEL_FILE).is_file():
            yield ModelFile(folder.name, int(version.name), version / MODEL_FILE)
