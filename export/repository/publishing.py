"""Publish a version into the model repository, all or nothing: <models>/<name>/<version>/model.onnx."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hangtag.export.errors import ExportError
from hangtag.export.repository import triton_config
from hangtag.export.repository.staging import staging_folder
from hangtag.serving.model_repository import CONFIG_FILE, MODEL_FILE, ROUTE_FILE, is_model_name, is_route, next_version


class Publication:
    """A version that is being published: where to write its files and, afterwards, where they are."""

    def __init__(self, staging: Path) -> None:
        self.model_file = staging / "1" / MODEL_FILE
        """Write the model here."""
        self.config_file = staging / CONFIG_FILE
        """Optional: write a config.pbtxt here. It goes next to the versions, and replaces one that an export wrote."""
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """The published version's folder. Raises RuntimeError before the ``with`` block has ended."""
        if self._folder is None:
            raise RuntimeError("the version is published at the end of the with block")
        return self._folder


@contextmanager
def publish(models: Path, name: str) -> Iterator[Publication]:
    """Publish what the block writes as the next version of a model, when the block ends without an exception.

    The files are written in a hidden folder and renamed into their place, so that a server that looks at any moment,
    also after a kill, sees the old state or the new one. A block that raises leaves nothing behind.

    Raises:
        ExportError: the name cannot be a model's, or is a route's, or the repository cannot be written.

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
            f"{name} is a route, which answers by other models: {models / name / ROUTE_FILE}. Publish the model under "
            "another name, or remove the route. Nothing was published."
        )
    new_folders = [folder for folder in (models, *models.parents) if not folder.exists()]
    try:
        models.mkdir(parents=True, exist_ok=True)
        for folder in new_folders:
            sync(folder.parent)
        try:
            with staging_folder(models, name) as staging:
                publication = Publication(staging)
                publication.model_file.parent.mkdir()
                yield publication
                _finish(staging, publication)
                publication._folder = _move_into_place(staging, models, name)
        finally:
            with suppress(OSError):  # a folder that is not empty stays
                for folder in new_folders:
                    folder.rmdir()
    except OSError as error:
        raise ExportError(f"{models} cannot be written: {error}. Nothing was published.") from error


def _finish(staging: Path, publication: Publication) -> None:
    """Make what was written readable for other users, and safe from a loss of power."""
    staging.chmod(0o755)  # mkdtemp's 0700 would hide the model from a server that runs as another user
    config = [publication.config_file] if publication.config_file.exists() else []
    for path in (publication.model_file, *config, publication.model_file.parent, staging):
        sync(path)


def _move_into_place(staging: Path, models: Path, name: str) -> Path:
    folder = models / name
    while True:
        try:
            if folder.exists():
                version = folder / str(next_version(models, name))
                # A version that must not be batched is never there without the config.pbtxt that says so: a new one is
                # moved before the version, an old one removed after it.
                _replace_config(staging / CONFIG_FILE, folder / CONFIG_FILE)
                (staging / "1").rename(version)
                _remove_config(staging / CONFIG_FILE, folder / CONFIG_FILE)
                sync(folder)
            else:
                version = staging.rename(folder) / "1"
                sync(models)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Another export took this version number meanwhile: try the next one.
        else:
            return version


def _replace_config(staged: Path, target: Path) -> None:
    """Copy the staged file, and keep it: it is copied again if another export took the version number."""
    if staged.exists() and (not target.exists() or triton_config.is_ours(target)):
        copy = staged.with_suffix(".new")
        shutil.copyfile(staged, copy)
        sync(copy)
        copy.replace(target)
        sync(target.parent)


def _remove_config(staged: Path, target: Path) -> None:
    if not staged.exists() and triton_config.is_ours(target):
        target.unlink()


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, safe from a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
