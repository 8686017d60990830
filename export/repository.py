"""Writing into the model repository, in Triton's layout: <models>/<name>/<version>/model.onnx."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from export.errors import ExportError

MODEL_FILE = "model.onnx"


def versions(models: Path, name: str) -> list[int]:
    """The versions of a model that hold a file, lowest first; none for a model that is not there."""
    folder = models / name
    if not folder.is_dir():
        return []
    numbers = [path.name for path in folder.iterdir() if re.fullmatch("[1-9][0-9]*", path.name)]
    return sorted(int(number) for number in numbers if (folder / number / MODEL_FILE).is_file())


def next_version(models: Path, name: str) -> int:
    """One above the highest version that is there, even if it is empty."""
    folder = models / name
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    return max(taken, default=0) + 1


def publish(models: Path, name: str, write: Callable[[Path], None]) -> Path:
    """Have ``write`` make the model file, then publish it as the next version, all or nothing.

    The file is written in a hidden folder and renamed into its place, so that a server that looks at any moment, also
    after a kill, sees the old state or the new one. When ``write`` raises, nothing is left behind.

    Returns the version's folder. Raises ExportError for a name that is none, and where nothing can be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ExportError(
            f"model name {name!r}: use letters, digits, '_', '-' and '.', beginning with a letter or digit"
        )
    is_new = not models.exists()
    try:
        models.mkdir(parents=True, exist_ok=True)
        # A model that is not there yet is staged beside its place: a folder without a version is no model to a server.
        folder = models / name
        staging = Path(tempfile.mkdtemp(prefix=".publishing-", dir=folder if folder.is_dir() else models))
        try:
            version = staging / "1"
            version.mkdir()
            write(version / MODEL_FILE)
            staging.chmod(0o755)  # mkdtemp's 0700 would hide the model from a server that runs as another user
            for written in (version / MODEL_FILE, version, staging):
                _sync(written)
            return _move_into_place(staging, models, name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if is_new and not any(models.iterdir()):
                models.rmdir()
    except OSError as error:
        raise ExportError(f"{models} cannot be written: {error}. Nothing was published.") from error


def _move_into_place(staging: Path, models: Path, name: str) -> Path:
    folder = models / name
    while True:
        try:
            if folder.exists():
                version = folder / str(next_version(models, name))
                (staging / "1").rename(version)
                _sync(folder)
            else:
                version = staging.rename(folder) / "1"
                _sync(models)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Another export took the place meanwhile: the next one is ours.
        else:
            return version


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
