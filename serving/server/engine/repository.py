"""The model repository on disk, in Triton's layout: <models>/<name>/<version>/model.onnx, a version a whole number."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hangtag.serving.server.errors import NotFoundError, RepositoryError
from hangtag.serving.server.host.watched_files import Stamp, stamp_of

MODEL_FILE = "model.onnx"
SETTINGS_FILE = "serving.toml"  # of a model, beside its versions
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")  # as long as a file's name can be
_VERSION = re.compile(r"[1-9][0-9]*")
_LAYOUT = f"<version>/{MODEL_FILE}, the version a whole number from 1"


@dataclass(frozen=True)
class ModelFile:
    """One version of one model, as it lies on disk."""

    name: str
    version: int
    path: Path

    def stamp(self) -> Stamp:
        """Of all that is read when it is loaded."""
        return stamp_of(self.path, self.path.parents[1] / SETTINGS_FILE)


def names(models: Path) -> list[str]:
    """Of the folders that may hold a model, in order. Raises RepositoryError when there is no such folder."""
    try:
        folders = [folder for folder in models.iterdir() if _NAME.fullmatch(folder.name) and folder.is_dir()]
    except OSError as error:
        raise RepositoryError(
            f"{models} is not a folder. Name the model repository with --models; 'hangtag export' fills one."
        ) from error
    return sorted(folder.name for folder in folders)  # without hidden folders, and files that happen to lie there


def versions(models: Path, name: str) -> list[ModelFile]:
    """A model's versions, the latest first; none where it is not.

    Raises NotFoundError for what is not a plain name, RepositoryError for a folder that cannot be read.
    """
    if not _NAME.fullmatch(name):
        raise NotFoundError(
            f"{name!r} cannot be a model's name: up to 255 letters, digits, '_', '-' and '.' can, and the first one is "
            "a letter or a digit"
        )
    try:
        return sorted(_versions(models / name), key=lambda file: -file.version)
    except OSError as error:
        raise RepositoryError(f"{models / name} cannot be read: {error.strerror}") from error


def require_versions(models: Path, name: str) -> list[ModelFile]:
    """As ``versions``, but raises RepositoryError where there is none."""
    found = versions(models, name)
    if not found:
        raise RepositoryError(
            f"{models / name} has no version to serve: expected {models / name}/{_LAYOUT}. "
            "Publish one, or move the folder out of the repository."
        )
    return found


def require_names(models: Path) -> list[str]:
    """As ``names``, but raises RepositoryError where there is none."""
    found = names(models)
    if not found:
        raise RepositoryError(
            f"{models} holds no model: expected {models}/<name>/{_LAYOUT}. 'hangtag export' publishes one."
        )
    return found


def published(models: Path) -> list[ModelFile]:
    """The highest version of each model that can be found, by name."""
    found = []
    with contextlib.suppress(RepositoryError):
        for name in names(models):
            with contextlib.suppress(RepositoryError):
                found += versions(models, name)[:1]
    return found


def latest_versions(models: Path) -> list[ModelFile]:
    """The highest version of each model, by name. Raises RepositoryError when there is nothing to serve."""
    return [require_versions(models, name)[0] for name in require_names(models)]


def _versions(folder: Path) -> Iterator[ModelFile]:
    if not folder.is_dir():
        return
    for version in folder.iterdir():
        if _VERSION.fullmatch(version.name) and (version / MODEL_FILE).is_file():
            yield ModelFile(folder.name, int(version.name), version / MODEL_FILE)
