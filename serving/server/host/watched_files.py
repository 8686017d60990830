"""Re-reads files, such as certificates and tokens, when they change while the server runs."""

import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from hangtag.serving.server.errors import StartError

log = structlog.get_logger()

T = TypeVar("T")
Stamp = tuple[tuple[Path, tuple[int, int, int, int] | None], ...]
"""For each file its path, and its modification time, size, inode and status change time; None for a missing file.

A program that writes a file may set its modification time to any value, and rsync and cp -p do so. Only the kernel sets
the status change time, which also changes with the file's owner, mode, number of hard links and, often, its name. On
some file systems, a rename changes none of these four values, so the stamp also has the path.
"""

LARGEST_BYTES = 1 << 20
"""The size limit of a file of certificates, keys or tokens."""


class WatchedFiles(Generic[T]):
    """A value that is read from files, and re-read when one of the files changes. Thread-safe. If the changed files are
    not valid, the last valid value stays in use."""

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], T], check_seconds: float) -> None:
        """Read the files, and check them again at most every ``check_seconds``. ``read`` returns the value, and raises
        StartError if the files are not valid. ``what`` is the plural noun that names the files in the log."""
        self._what = what
        self._paths = tuple(paths)
        self._read = read
        self._check_seconds = check_seconds
        self._lock = threading.Lock()
        self._stamp = stamp_of(*self._paths)
        self._value = read()
        self._checked = time.monotonic()

    def current(self) -> T:
        """Return the last valid value of the files. Never raises an error."""
        if time.monotonic() - self._checked >= self._check_seconds and self._lock.acquire(blocking=False):
            try:
                self._check()
            finally:
                self._lock.release()
        return self._value

    def _check(self) -> None:
        self._checked = time.monotonic()
        stamp = stamp_of(*self._paths)
        if stamp == self._stamp:
            return
        failure: StartError | None = None
        try:
            value = self._read()
        except StartError as error:
            failure = error
        if stamp_of(*self._paths) != stamp:
            return  # the files changed while they were read, so the value may mix old and new contents
        # Set the stamp after a failure too: the failure is logged once, and the files are read again if they change.
        self._stamp = stamp
        if failure is not None:
            log.warning(f"{self._what} not reloaded; the previous contents stay in use", reason=str(failure))
            return
        self._value = value
        log.info(f"{self._what} reloaded", files=[str(path) for path in self._paths])


def stamp_of(*paths: Path) -> Stamp:
    """Identify the content of files. A changed file has a different stamp."""
    return tuple((path, _stamp(path)) for path in paths)


def folder_stamp(folder: Path, *others: Path) -> Stamp:
    """Return the stamp of all files in a folder and its subfolders, and of ``others``. Links to files are followed,
    links to folders are not. A folder that is missing or cannot be read has no files."""
    files = sorted(Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return stamp_of(*files, *others)


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns


def read_bytes(path: Path, option: str) -> bytes:
    """Return a regular file's content. Raises StartError, with the command-line ``option`` that names the file, if the
    file cannot be read, is not a regular file, or is larger than LARGEST_BYTES. A named pipe could block the thread for
    ever, and this thread often answers calls. Reading a device file could fill the memory."""
    try:
        # without O_NONBLOCK, opening a named pipe would wait for a writer
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StartError(f"{path} ({option}) cannot be read: it is not a regular file")
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise StartError(f"{path} ({option}) cannot be read: {error.strerror}") from error
    if len(content) > LARGEST_BYTES:
        raise StartError(f"{path} ({option}) cannot be read: it has more than {LARGEST_BYTES:,} bytes")
    return content
