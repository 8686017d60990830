"""The limit on open files of this process: every connection takes one."""

import errno
import os
import resource

import structlog

log = structlog.get_logger()

_SPARE = 256
"""Open files besides connections: models, libraries, event loops, pipes, and the metrics' connections."""


def raise_limit(connections: int) -> None:
    """Raise the limit to the most that the system allows this process, and warn where that is too low.

    Systems start programs with a low limit, often 1024, for the sake of old ones that cannot handle more.

    Args:
        connections: How many connections the process is configured to hold.
    """
    needed = connections + _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    limit = max(soft, needed) if hard == resource.RLIM_INFINITY else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (OSError, ValueError):  # macOS takes less than it says
        limit = soft
    if limit < needed:
        log.warning(
            "the limit on open files is below what --max-connections may take: raise it (ulimit -n) or lower the other",
            limit=limit,
            needed=needed,
        )


class OpenFiles:
    """Watches whether this process can open files. Where it cannot, its servers accept no connections."""

    def __init__(self) -> None:
        self._exhausted = False

    def check(self) -> None:
        """Log when no more files can be opened, and when they can again."""
        before = self._exhausted
        try:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            self._exhausted = False
        except OSError as error:
            self._exhausted = error.errno in (errno.EMFILE, errno.ENFILE)
        if self._exhausted and not before:
            log.warning(
                "no more files can be opened; new connections wait or are closed",
                limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                advice="raise the limit (ulimit -n), lower --max-connections, or stop who opens so many",
            )
        elif before and not self._exhausted:
            log.info("files can be opened again")
