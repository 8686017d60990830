"""Closes connections to the native transport beyond --max-connections, since the library sets no limit on them.

Each connection is a socket among this process's open files, and its local port is the transport's. A thread looks
through them once a second and shuts down the newest of too many. The library then closes them as if their clients had.
"""

import os
import resource
import socket
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

import structlog

log = structlog.get_logger()

CHECK_SECONDS = 1.0
_OPEN_FILES = Path("/dev/fd")


class ConnectionLimit:
    """Checks from its construction until ``close``."""

    def __init__(self, port: int, most: int) -> None:
        """Start the thread.

        Args:
            port: The local port of the connections.
            most: How many may stay open.
        """
        self._port = port
        self._most = most
        self._kept: set[int] = set()  # inodes of the connections that were open at the last check
        # Descriptors are copied onto this socket's, which needs no further one: there may be none left.
        self._copy, self._unconnected = socket.socket(), socket.socket()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._check_until_closed, name="native-connections", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()
        self._copy.close()
        self._unconnected.close()

    def _check_until_closed(self) -> None:
        while not self._closed.wait(CHECK_SECONDS):
            try:
                closed = self._check()
            except Exception:  # a bug of ours must not end the thread
                log.exception("counting connections failed")
                continue
            if closed:
                log.warning("connections closed: more than --max-connections were open", closed=closed, most=self._most)

    def _check(self) -> int:
        """Shut down the newest connections beyond the limit, and return how many."""
        descriptors = _descriptors()
        if len(descriptors) <= self._most:
            self._kept = set()
            return 0
        try:
            found = {inode: each for each in descriptors if (inode := self._connection(each))}
            oldest_first = sorted(found, key=lambda inode: inode not in self._kept)
            self._kept = set(oldest_first[: self._most])
            beyond = oldest_first[self._most :]
            for inode in beyond:
                if self._connection(found[inode]) == inode:  # else the client has left, and the number is another's
                    self._copy.shutdown(socket.SHUT_RDWR)
        finally:  # the copy of a connection would keep it open
            os.dup2(self._unconnected.fileno(), self._copy.fileno(), inheritable=False)
        return len(beyond)

    def _connection(self, descriptor: int) -> int:
        """Copy a descriptor, and return the inode of its socket; 0 where it is no connection to the port."""
        try:
            if descriptor == self._copy.fileno() or not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                return 0
            os.dup2(descriptor, self._copy.fileno(), inheritable=False)
            local = self._copy.getsockname()
            if not isinstance(local, tuple) or local[1] != self._port:
                return 0
            self._copy.getpeername()
            return os.fstat(self._copy.fileno()).st_ino
        except OSError:  # it was closed meanwhile, or is the socket that listens, which has no peer
            return 0


def _descriptors() -> list[int]:
    """This process's open files, in any order."""
    numbers: Iterable[int]
    try:
        numbers = [int(each.name) for each in _OPEN_FILES.iterdir()]
    except OSError:  # to list them takes a descriptor, and there is none left, so every number may be one
        numbers = range(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return list(numbers)
