"""Files that are renewed while the server runs: certificates, tokens. What was good stays until the new is good."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from hangtag.serving.server.errors import StartError

log = structlog.get_logger()

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int] | None, ...]
"""Of each file the time of its last change, its size and inode."""

CHECK_SECONDS = 1.0
"""How often the files are looked at, at most: a call costs a look at the clock, not at the disk."""


class WatchedFiles(Generic[T]):
    """What ``read`` makes of some files, read again when one of them changes. Thread-safe."""

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """Reads at once. read: raises StartError, here too, for files that are no good. what: their name in the log."""
        self._what = what
        self._paths = tuple(paths)
        self._read = read
        self._lock = threading.Lock()
        self._stamp = stamp_of(*self._paths)
        self._value = read()
        self._checked = time.monotonic()

    def current(self) -> T:
        """The value of the files as they are now, or were when they were last good. Never raises."""
        if time.monotonic() - self._checked >= CHECK_SECONDS and self._lock.acquire(blocking=False):
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
        try:
            value = self._read()
        except StartError as error:
            self._stamp = stamp  # said once; the next change is another chance
            log.warning(f"{self._what} not reloaded; those from before stay", reason=str(error))
            return
        if stamp_of(*self._paths) != stamp:
            return  # they changed while they were read: a mixture, perhaps
        self._stamp, self._value = stamp, value
        log.info(f"{self._what} reloaded", files=[str(path) for path in self._paths])


def stamp_of(*paths: Path) -> Stamp:
    """Another stamp is another content. A file that is gone has None."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_bytes(path: Path, option: str) -> bytes:
    """The file's content. Raises StartError, which names the option that names the file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"{path} ({option}) cannot be read: {error.strerror}") from error
