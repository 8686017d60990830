"""Read a model repository: which models and versions it contains, and where their files are.

The layout is Triton's:

    <models>/
        <name>/             letters, digits, '_', '-' and '.', beginning with a letter or a digit
            serving.toml    optional: this model's own server settings
            route.toml      instead of versions: a route, which calls other models (docs/reference/routes.md)
            promoted.toml   optional: the served version; by default the latest
            config.pbtxt    optional: for Triton; hangtag's server does not read it
            <version>/      a whole number above 0
                model.onnx

'hangtag models promote' and 'hangtag models rollback' write promoted.toml (export/repository/promotion.py):

    version = 2         the served version
    history = [1, 3]    earlier served versions, for a rollback; the last is the most recent

Training (for teachers), the export (to publish versions) and the server (to load versions) all read this layout with
this module.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hangtag.errors import UserError

MODEL_FILE = "model.onnx"
SETTINGS_FILE = "serving.toml"
PROMOTION_FILE = "promoted.toml"
ROUTE_FILE = "route.toml"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")  # common file systems allow file names of up to 255 bytes
_VERSION = re.compile(r"[1-9][0-9]*")
_LARGEST_TOML = 1 << 20  # bytes
_MEND_PROMOTION = "'hangtag models promote NAME VERSION' rewrites the file; without the file, the latest version serves"
_LAYOUT = f"<version>/{MODEL_FILE}, with a whole number above 0 as version"


class ModelRepositoryError(UserError):
    """The folder cannot be read as a model repository, or lacks a model or a version that is required."""


class ModelNameError(ModelRepositoryError):
    """The text cannot be a model's name, so no folder was searched."""


@dataclass(frozen=True)
class ModelFile:
    """One version of a model on disk, with the path of its model.onnx."""

    name: str
    version: int
    path: Path


class Promotion(NamedTuple):
    """The content of a promoted.toml: the served version, and earlier served versions, oldest first."""

    version: int
    history: tuple[int, ...] = ()


def is_model_name(name: str) -> bool:
    """Return whether a model may have this name. No valid name leads out of the repository."""
    return _NAME.fullmatch(name) is not None


def names(models: Path) -> list[str]:
    """List the folders that can hold a model, in alphabetical order, whether or not they contain a version. Raises
    ModelRepositoryError if the folder does not exist, or cannot be read."""
    try:
        return sorted(folder.name for folder in models.iterdir() if is_model_name(folder.name) and folder.is_dir())
    except OSError as error:
        raise ModelRepositoryError(
            f"{models} is not a folder. Name the model repository with --models; 'hangtag export' creates one."
        ) from error


def is_route(models: Path, name: str) -> bool:
    """Return whether a name in the repository is a route: its folder has a route.toml and no versions."""
    folder = models / name
    try:
        return is_model_name(name) and (folder / ROUTE_FILE).is_file() and not numbered_versions(folder)
    except (OSError, ModelRepositoryError):
        return False


def versions(models: Path, name: str) -> list[ModelFile]:
    """List a model's versions: the served version, then the others, latest first. The list is empty if there is no such
    model. Raises ModelNameError if the text cannot be a model's name, and ModelRepositoryError if the model's folder or
    promoted.toml cannot be read, or the promoted version is missing."""
    if not is_model_name(name):
        raise ModelNameError(
            f"{name!r} cannot be a model's name: a name has up to 255 letters, digits, '_', '-' and '.', and begins "
            "with a letter or a digit"
        )
    return versions_in(models / name)


def versions_in(folder: Path) -> list[ModelFile]:
    """List the versions in a model's folder, like ``versions``."""
    files = numbered_versions(folder)
    promoted = promotion(folder) if files else None
    if promoted is None:
        return files
    serving = [file for file in files if file.version == promoted.version]
    if not serving:
        there = ", ".join(str(file.version) for file in files)
        raise ModelRepositoryError(
            f"{folder / PROMOTION_FILE} promotes version {promoted.version}, which does not exist; the versions are "
            f"{there}. Promote one of them: 'hangtag models promote {folder.name} VERSION'"
        )
    return serving + [file for file in files if file.version != promoted.version]


def numbered_versions(folder: Path) -> list[ModelFile]:
    """List the versions in one model's folder, latest first, even if another version is served. Raises
    ModelRepositoryError if the folder cannot be read."""
    try:
        files = [
            ModelFile(folder.name, int(version.name), version / MODEL_FILE)
            for version in (folder.iterdir() if folder.is_dir() else ())
            if _VERSION.fullmatch(version.name) and (version / MODEL_FILE).is_file()
        ]
    except OSError as error:
        raise ModelRepositoryError(f"{folder} cannot be read: {error.strerror}") from error
    return sorted(files, key=lambda file: -file.version)


def promotion(folder: Path) -> Promotion | None:
    """Read which version of a model was promoted; None if the latest version is served. Raises ModelRepositoryError if
    the model's promoted.toml cannot be read or is malformed."""
    file = folder / PROMOTION_FILE
    try:
        content = read_toml(file)
    except FileNotFoundError:
        return None
    except ModelRepositoryError as error:
        raise ModelRepositoryError(f"{error}. {_MEND_PROMOTION}") from error
    history = content.pop("history", [])
    version = content.pop("version", None)
    is_history = isinstance(history, list) and all(
        type(number) is int and number >= 1 for number in (version, *history)
    )
    if content or not is_history:
        raise ModelRepositoryError(
            f"{file} must hold version = NUMBER and may hold history = [NUMBERS]. {_MEND_PROMOTION}"
        )
    return Promotion(version, tuple(history))


def read_toml(file: Path) -> dict[str, Any]:
    """Read one of a model's small files, <models>/<name>/*.toml. Raises FileNotFoundError if it does not exist, and
    ModelRepositoryError if it is not TOML, is too large, or is a link that leads out of the repository."""
    require_inside(file, file.parent)
    try:
        if file.exists() and not file.is_file():
            raise ModelRepositoryError(f"{file} cannot be read as TOML: it is not a file")
        with file.open("rb") as opened:
            content = opened.read(_LARGEST_TOML + 1)
        if len(content) > _LARGEST_TOML:
            raise ModelRepositoryError(f"{file} cannot be read as TOML: it has more than {_LARGEST_TOML:,} bytes")
        return tomllib.loads(content.decode())
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise ModelRepositoryError(f"{file} cannot be read as TOML: it is not UTF-8") from error
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: brackets that are nested too deeply
        raise ModelRepositoryError(f"{file} cannot be read as TOML: {error}") from error


def require_inside(file: Path, folder: Path) -> None:
    """Raise ModelRepositoryError if links lead from the file to a place outside both the model's ``folder`` and the
    repository. The file need not exist.

    The model's folder itself may be a link to any place, because only the repository's owner creates such links. The
    contents of the folder may come from another person, in an archive for example, and must not lead to other files of
    this machine. Kubernetes mounts files as links inside one folder. The error does not say where the link leads,
    because the error is sent to the client that asked the server to load the model.
    """
    try:
        place = file.resolve()
        inside = any(place.is_relative_to(root.resolve()) for root in (folder, folder.parent))
    except (OSError, RuntimeError) as error:  # RuntimeError: a symlink loop
        raise ModelRepositoryError(f"{file} cannot be read: {error}") from error
    if not inside:
        raise ModelRepositoryError(
            f"{file} is a link that leads out of the model's folder and out of the repository (see 'readlink -f'). "
            "Put the file itself into the model's folder, or make the whole folder of the model a link"
        )


def require_names(models: Path) -> list[str]:
    """List the folders like ``names``, but raise ModelRepositoryError if the repository is empty."""
    listed = names(models)
    if not listed:
        raise ModelRepositoryError(
            f"{models} holds no model: expected {models}/<name>/{_LAYOUT}. 'hangtag export' publishes a model."
        )
    return listed


def require_versions(models: Path, name: str) -> list[ModelFile]:
    """List the versions like ``versions``, but raise ModelRepositoryError if there is no version or no such model."""
    files = versions(models, name)
    if not files:
        if _VERSION.fullmatch(name) and (models / name / MODEL_FILE).is_file():
            raise ModelRepositoryError(
                f"{models} is one model's folder, not a model repository: name the folder above it with --models."
            )
        if not (models / name).is_dir():
            there = ", ".join(names(models)) or "none"
            raise ModelRepositoryError(f"{models} holds no model {name!r}; the models there: {there}.")
        if is_route(models, name):
            raise ModelRepositoryError(
                f"{name} is a route, which has no versions of its own: {models / name / ROUTE_FILE} names the models "
                "that answer."
            )
        raise ModelRepositoryError(
            f"{models / name} has no version to serve: expected {models / name}/{_LAYOUT}, or for a route "
            f"{models / name / ROUTE_FILE}. Publish a version, or move the folder out of the repository."
        )
    return files


def serving_versions(models: Path) -> list[ModelFile]:
    """Return the served version of each model, sorted by the models' names. Routes have no versions. Raises
    ModelRepositoryError if the repository is missing or empty, or one of its models has no version."""
    return [require_versions(models, name)[0] for name in require_names(models) if not is_route(models, name)]


def next_version(models: Path, name: str) -> int:
    """Return the number for a new version: one above the highest numbered folder, even if that folder is empty."""
    folder = models / name
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    return max(taken, default=0) + 1


def find_file(source: str) -> Path | None:
    """Find the ONNX file for a command-line argument: a FILE.onnx (even if it does not exist), a version's folder, or
    a model's folder (for the served version). Return None for anything else."""
    path = Path(source)
    if source.endswith(".onnx"):
        return path
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    try:
        return next((file.path for file in versions_in(path)), None)
    except ModelRepositoryError:
        return None
