"""Publish a version into the model repository, completely or not at all: <models>/<name>/<version>/model.onnx."""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hangtag.errors import reason
from hangtag.export.errors import ExportError
from hangtag.serving.model_repository import MODEL_FILE, ROUTE_FILE, is_model_name, is_route, next_version

PREFIX = ".publishing-"
"""The prefix of the hidden folders in which versions are written before their publication."""


@dataclass
class Publication:
    """A version that is being published.

    Attributes:
        model_file: The path at which to write the model.
        folder: The version's folder: inside the ``with`` block, the hidden folder in which the version is written;
            after the block, the published folder.
    """

    model_file: Path
    folder: Path


@contextmanager
def publish(models: Path, name: str) -> Iterator[Publication]:
    """Publish, as a model's next version, the file that the ``with`` block writes, unless the block raises an
    exception.

    The file is written in a hidden folder, which is then renamed. So a server always sees the old state or the new
    state, even if this process is killed. If the block raises an exception, no files remain.

    Raises:
        ExportError: the name is not a valid model name or belongs to a route, or the repository cannot be written.

    Example:
        >>> with publish(Path("models"), "cnn") as publication:
        ...     publication.model_file.write_bytes(model.SerializeToString())
        >>> publication.folder
        PosixPath('models/cnn/3')
    """
    if not is_model_name(name):
        raise ExportError(
            f"model name {name!r}: use letters, digits, '_', '-' and '.', beginning with a letter or digit"
        )
    if is_route(models, name):
        raise ExportError(
            f"{name} is a route, which calls other models: {models / name / ROUTE_FILE}. Publish the model "
            "under another name, or remove the route. Nothing was published."
        )
    new_folders = [folder for folder in (models, *models.parents) if not folder.exists()]
    try:
        models.mkdir(parents=True, exist_ok=True)
        for folder in new_folders:
            sync(folder.parent)
        try:
            with _staging_folder(models, name) as staging:
                publication = Publication(staging / "1" / MODEL_FILE, staging)
                publication.model_file.parent.mkdir()
                yield publication
                _finish(staging, publication)
                publication.folder = _move_into_place(staging, models, name)
        finally:
            with suppress(OSError):  # only empty folders are removed
                for folder in new_folders:
                    folder.rmdir()
    except OSError as error:
        raise ExportError(f"{models} cannot be written: {reason(error)}. Nothing was published.") from error


@contextmanager
def _staging_folder(models: Path, name: str) -> Iterator[Path]:
    """Make a hidden folder, and remove it at the end. First, remove the folders of exports that were killed.

    The kernel locks a process's folder until the process ends, so a folder without a lock belongs to a dead process.
    """
    # A model folder without a version is an error, so a new model's hidden folder is put directly into the repository.
    parent = models / name if (models / name).is_dir() else models
    staging = parent / f"{PREFIX}{uuid.uuid4().hex}"  # set before mkdir, so that Ctrl-C at any moment leaves no folder
    with ExitStack() as lock:
        try:
            with _locked(models):  # so that no other export removes the new folder before this process locks it
                for leftover in (*models.glob(f"{PREFIX}*"), *models.glob(f"*/{PREFIX}*")):
                    with suppress(OSError), _locked(leftover, wait=False):
                        shutil.rmtree(leftover, ignore_errors=True)
                staging.mkdir(mode=0o700)
                lock.enter_context(_locked(staging))
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the kernel's lock on a folder.

    Without ``wait``, raise OSError if another process holds the lock, or if the file system does not support locks.
    With ``wait``, continue unlocked if locks are unsupported. A leftover folder is removed only while its lock is held.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            if not wait:
                raise
        yield
    finally:
        os.close(descriptor)


def _finish(staging: Path, publication: Publication) -> None:
    """Make the folder readable for other users, and flush the folder and the file to the disk."""
    staging.chmod(0o755)  # mkdtemp's 0700 would hide the model from a server that runs as another user
    for path in (publication.model_file, publication.model_file.parent, staging):
        sync(path)


def _move_into_place(staging: Path, models: Path, name: str) -> Path:
    folder = models / name
    while True:
        try:
            if folder.exists():
                version = folder / str(next_version(models, name))
                (staging / "1").rename(version)
                sync(folder)
            else:
                version = staging.rename(folder) / "1"
                sync(models)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Another export has published this version number in the meantime, so try the next number.
        else:
            return version


def sync(path: Path) -> None:
    """Write a file's content, or a folder's list of names, to the disk, so that a power failure cannot lose it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
