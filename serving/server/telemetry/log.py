"""Configures the log: one line per event on standard error, rate-limited, in words at a terminal, else as key=value."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict

from hangtag.serving.server.telemetry.log_values import make_printable
from hangtag.serving.server.telemetry.terminal_log import TerminalRenderer

BURST = 20
"""Most warnings and errors of one event written in PERIOD seconds; the next line states how many were dropped."""
PERIOD = 10.0

_MAX_MESSAGE = 500  # characters of a library's message that are logged
_LIMITED_METHODS = ("warning", "error", "critical", "exception")


class RateLimit:
    """A structlog processor that drops repeated problems, so that no client can fill the log. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, int]] = {}  # event -> start of its period, lines since

    def __call__(self, _logger: object, method: str, event_dict: EventDict) -> EventDict:
        if method not in _LIMITED_METHODS:
            return event_dict
        event, now = str(event_dict.get("event")), self._clock()
        with self._lock:
            began, count = self._seen.get(event, (now, 0))
            suppressed = max(0, count - BURST)
            if now - began >= PERIOD:
                began, count = now, 0
            self._seen[event] = (began, count + 1)
        if count >= BURST:
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

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write(record.name, reason=record.getMessage()[:_MAX_MESSAGE])


def redirect_library_log(library: str) -> None:
    """Write a library's warnings and errors to this log, in its format and within its rate limit."""
    logger = logging.getLogger(library)
    logger.handlers = [_LibraryHandler(logging.WARNING)]
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
            RateLimit(),
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
