"""Writing into the model repository, in Triton's layout: <models>/<name>/<version>/model.onnx."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hangtag.export.errors import ExportError
from hangtag.serving.model_repository import CONFIG_FILE, MODEL_FILE, is_model_name, next_version

STAGING = ".publishing-"
CONFIG_MARK = "# Written by hangtag export"
"""What the first line of our own config.pbtxt begins with; any other one is left as it is."""


def publish(models: Path, name: str, write: Callable[[Path], None]) -> Path:
    """Have ``write`` make the model file, then publish it as the next version, all or nothing.

    The file is written in a hidden folder and renamed into its place, so that a server that looks at any moment, also
    after a kill, sees the old state or the new one. When ``write`` raises, nothing is left behind. What it writes as
    ``config.pbtxt`` into the folder above the file's goes beside the versions, and replaces one that an export wrote.

    Returns the version's folder. Raises ExportError for a name that is none, and where nothing can be written.
    """
    if not is_model_name(name):
        raise ExportError(
            f"model name {name!r}: use letters, digits, '_', '-' and '.', beginning with a letter or digit"
        )
    new = [folder for folder in (models, *models.parents) if not folder.exists()]
    try:
        models.mkdir(parents=True, exist_ok=True)
        for folder in new:
            _sync(folder.parent)
        try:
            with _staging(models, name) as staging:
                version = staging / "1"
                version.mkdir()
                write(version / MODEL_FILE)
                staging.chmod(0o755)  # mkdtemp's 0700 would hide the model from a server that runs as another user
                config = [staging / CONFIG_FILE] if (staging / CONFIG_FILE).exists() else []
                for written in (version / MODEL_FILE, *config, version, staging):
                    _sync(written)
                return _move_into_place(staging, models, name)
        finally:
            with suppress(OSError):  # one that holds something stays
                for folder in new:
                    folder.rmdir()
    except OSError as error:
        raise ExportError(f"{models} cannot be written: {error}. Nothing was published.") from error


@contextmanager
def _staging(models: Path, name: str) -> Iterator[Path]:
    """A hidden folder to write in, gone afterwards. What killed exports left behind is swept away first.

    The kernel keeps a lock on the folder for as long as this process lives, which tells the living from the dead.
    """
    # A model that is not there yet is staged beside its place: a folder without a version is no model to a server.
    folder = models / name if (models / name).is_dir() else models
    with _locked(models):  # nobody sweeps between making the folder and locking it
        for left in (*models.glob(f"{STAGING}*"), *models.glob(f"*/{STAGING}*")):
            with suppress(OSError), _locked(left, wait=False):
                shutil.rmtree(left, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
        held = ExitStack()
        held.enter_context(_locked(staging))
    with held:
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the kernel's lock on a folder.

    Without wait, raises OSError where another process holds it, and where the file system has no locks. With wait it
    goes on without one there: what cannot be locked is never swept, and so need not be guarded.
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


def _move_into_place(staging: Path, models: Path, name: str) -> Path:
    folder = models / name
    while True:
        try:
            if folder.exists():
                version = folder / str(next_version(models, name))
                # Never a version that must not be batched without the word that says so: here first, there last.
                _replace_config(staging / CONFIG_FILE, folder / CONFIG_FILE)
                (staging / "1").rename(version)
                _remove_config(staging / CONFIG_FILE, folder / CONFIG_FILE)
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


def _is_ours(config: Path) -> bool:
    return config.is_file() and config.read_text(encoding="utf-8", errors="replace").startswith(CONFIG_MARK)


def _replace_config(written: Path, there: Path) -> None:
    """The written one is kept, for this is done again where another export took the version's place."""
    if written.exists() and (not there.exists() or _is_ours(there)):
        between = written.with_suffix(".new")
        shutil.copyfile(written, between)
        _sync(between)
        between.replace(there)
        _sync(there.parent)


def _remove_config(written: Path, there: Path) -> None:
    if not written.exists() and _is_ours(there):
        there.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
