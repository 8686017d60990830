"""A hidden folder in the model repository, in which an export writes a version before it is published."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = ".publishing-"


@contextmanager
def staging_folder(models: Path, name: str) -> Iterator[Path]:
    """Make a hidden folder, and remove it at the end. Those that killed exports left behind are removed first.

    This process holds the kernel's lock on its folder for as long as it lives, so a folder whose lock is free belongs
    to a dead process.
    """
    # A new model is staged in the repository itself: until its first version is there, it must have no folder.
    parent = models / name if (models / name).is_dir() else models
    with _locked(models):  # so that no other export removes the folder before it is locked
        for leftover in (*models.glob(f"{PREFIX}*"), *models.glob(f"*/{PREFIX}*")):
            with suppress(OSError), _locked(leftover, wait=False):
                shutil.rmtree(leftover, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = ExitStack()
        lock.enter_context(_locked(staging))
    with lock:
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the kernel's lock on a folder.

    Without ``wait``, raise OSError if another process holds it, or if the file system has no locks. With ``wait``, go
    on without a lock on such a file system: a folder that cannot be locked is never removed, so it needs no guard.
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
