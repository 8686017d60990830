"""The log: one line an event on standard error, for a person at a terminal, else key=value. No caller can fill it."""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict

BURST = 20
"""Warnings and errors of one event that are written in PERIOD seconds; the next one written counts the rest."""
PERIOD = 10.0

_LONGEST = 500  # of what a library says
_LIMITED = ("warning", "error", "critical")


class RateLimit:
    """A structlog processor that drops what repeats too often. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, int]] = {}  # event -> when its period began, and how often it came since

    def __call__(self, _logger: object, method: str, event_dict: EventDict) -> EventDict:
        if method not in _LIMITED and method != "exception":
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
    """Standard error, if it can be written: who read it may be gone, or the disk full, and nobody's call may fail for
    that."""

    def write(self, text: str) -> None:
        # Looked up each time; None where the process was started without.
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.flush()


class _Library(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write(record.name, reason=record.getMessage()[:_LONGEST])


def redirect_library_log(library: str) -> None:
    """What a library logs by itself, be it of callers' making, is written in this log's form and within its limit."""
    logger = logging.getLogger(library)
    logger.handlers = [_Library(logging.WARNING)]
    logger.propagate = False


def configure_log(**everywhere: object) -> None:
    """For the whole process. everywhere: what every line says."""
    terminal = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.LogfmtRenderer()
    structlog.configure(
        processors=[
            RateLimit(),
            lambda _logger, _method, event: {**everywhere, **event},
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # In one write, line end and all: workers share the file.
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Writer())),
    )
