"""Configures the log: one line per event on standard error, rate-limited, in words at a terminal, else as key=value."""

import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.telemetry.log_values import make_printable
from hangtag.serving.server.telemetry.terminal_log import TerminalRenderer

PERIOD = 10.0
"""In so many seconds, as many lines of one event are written as its burst; the next states how many were dropped."""
INFO_BURST = 5
"""Of the lines that report no problem, such as a model that was loaded by call. For others, `Limits` has it."""

_MAX_MESSAGE = 500  # characters of a library's message that are logged
_PROBLEMS = ("warning", "error", "critical", "exception")
_SUBJECTS = ("model", "version", "file", "worker")


class RateLimit:
    """A structlog processor that drops repeated lines, so that no client can fill the log. Thread-safe.

    A problem is limited by its event alone. Other lines are limited for each model and worker by itself: the start of
    many of them has a line for each. No client makes up the name of either.
    """

    def __init__(self, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, ...], tuple[float, int]] = {}  # event, subject -> start of its period, lines since

    def __call__(self, _logger: object, method: str, event_dict: EventDict) -> EventDict:
        problem = method in _PROBLEMS
        burst = self._burst if problem else INFO_BURST
        key = tuple(str(event_dict.get(part)) for part in (("event",) if problem else ("event", *_SUBJECTS)))
        now = self._clock()
        with self._lock:
            began, count = self._seen.get(key, (now, 0))
            suppressed = max(0, count - burst)
            if now - began >= PERIOD:
                began, count = now, 0
            self._seen[key] = (began, count + 1)
        if count >= burst:
            raise structlog.DropEvent
        return {**event_dict, "suppressed": suppressed} if count == 0 and suppressed else event_dict


class _Writer:
    """Writes to standard error, and ignores failures: a closed pipe or a full disk must not fail a client's call."""

    def write(self, text: str) -> None:
        # sys.stderr is looked up at each call, since it may be replaced; it is None if the process has none.
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.flush()


class _LibraryHandler(logging.Handler):
    """Forwards a library's log records to this log."""

    def __init__(self, *, with_values: bool) -> None:
        super().__init__(logging.WARNING)
        self._with_values = with_values

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write(record.name, **(_whole(record) if self._with_values else _without_values(record)))


def _whole(record: logging.LogRecord) -> dict[str, str]:
    return {"reason": record.getMessage()[:_MAX_MESSAGE]}


def _without_values(record: logging.LogRecord) -> dict[str, str]:
    """Return a record's format, and the type and the place of its exception.

    A message that came without arguments may have been formatted already, and the message of an exception may quote
    what it is about, so neither is written.
    """
    fields = {"reason": str(record.msg)[:_MAX_MESSAGE]} if record.args else {}
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        fields["error"] = type(error).__name__
        if frames := traceback.extract_tb(error.__traceback__):
            fields["raised_at"] = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    return fields


def redirect_library_log(library: str, *, with_values: bool) -> None:
    """Write a library's warnings and errors to this log, in its format and within its rate limit.

    Args:
        library: The name of its logger.
        with_values: Whether its messages are written whole. False for a library that gets what callers send: of a
            message its format is written, such as "Invalid encoding on %s", and no value.
    """
    logger = logging.getLogger(library)
    logger.handlers = [_LibraryHandler(with_values=with_values)]
    logger.propagate = False


def silence_library_log(library: str) -> None:
    """Drop what a library logs, where that says only what a caller did wrong."""
    logger = logging.getLogger(library)
    logger.handlers = [logging.NullHandler()]
    logger.propagate = False


def configure_log(**common: object) -> None:
    """Configure structlog for the whole process. common: keys and values that every line has."""
    terminal = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
    # no-color.org: a NO_COLOR that is not empty asks for plain text.
    in_words = TerminalRenderer(coloured=not os.environ.get("NO_COLOR"))
    renderer: Any = in_words if terminal else structlog.processors.LogfmtRenderer()
    structlog.configure(
        processors=[
            RateLimit(Limits().log_burst),  # the log is there before the server's settings are read
            lambda _logger, _method, event: {**common, **event},
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            make_printable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # One write per line, newline included, because workers share the file.
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Writer())),
    )
