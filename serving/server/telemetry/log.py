"""Configures the log: one line per event on standard error, rate-limited, and without unprintable characters."""

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
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.typing import EventDict

from hangtag.printable import escaped
from hangtag.serving.server.config.limits import Limits

PERIOD = 10.0
"""The length in seconds of a period in which only a limited number of lines (the burst) is written for one event. The
first line for the same event after the period says how many lines were dropped."""
INFO_BURST = 5
"""How many lines one period allows for an event that reports no problem. For problems, see `Limits.log_burst`."""

_LONGEST_VALUE = 2000
"""Of a longer value, only this many characters are written."""
_LONGEST_TRACEBACK = 20_000
"""Of a longer traceback, only this many characters at the end are written, because the last line has the error."""
_PROBLEMS = ("warning", "error", "critical", "exception")
_SUBJECTS = ("model", "version", "file", "worker")


class RateLimit:
    """A structlog processor that drops repeated lines, so that no client can fill the log. Thread-safe. All log lines
    of one kind of problem share one limit. For any other event, each model and each worker has its own limit, because
    at the start all of them may log the same event. Clients cannot invent names of models or workers."""

    def __init__(self, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, ...], tuple[float, int]] = {}  # (event, subject) -> (period's start, line count)

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


def _make_printable(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    """Make all values of a log line printable, after `format_exc_info` has written the traceback. Terminal escapes
    could change what a person sees, a line break could forge a line, and a long value could fill the disk. So
    unprintable characters are written as Python escapes, and long values are cut."""
    traceback = event_dict.get("exception")
    values = {key: _printable(value) for key, value in event_dict.items()}
    if isinstance(traceback, str):
        values["exception"] = "\n".join(map(escaped, traceback[-_LONGEST_TRACEBACK:].split("\n")))
    return values


def _printable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_printable(each) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    cut = f"… ({len(text):,} characters)" if len(text) > _LONGEST_VALUE else ""
    return escaped(text[:_LONGEST_VALUE]) + cut


class _Writer:
    """Writes to standard error. Ignores failures, because a closed pipe or a full disk must not fail a call."""

    def write(self, text: str) -> None:
        # Look up sys.stderr at each call, because a program may replace it, even with None, which has no ``write``.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text)
            sys.stderr.flush()

    def flush(self) -> None: ...


def _without_values(record: logging.LogRecord) -> dict[str, str]:
    """Return a record's message format, and the type and source line of its exception. Omit the
    exception's message, and the text of a record without arguments, because both may contain callers' values."""
    fields = {"reason": str(record.msg)} if record.args else {}
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        fields["error"] = type(error).__name__
        if frames := traceback.extract_tb(error.__traceback__):
            fields["raised_at"] = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    return fields


def redirect_library_log(library: str, *, with_values: bool) -> None:
    """Write a library's warnings and errors to this log, in the log's format and within its rate limit. Without
    ``with_values``, only a message's format is written ("Invalid encoding on %s"), as values may be callers' data."""

    def emit(record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write(record.name, **({"reason": record.getMessage()} if with_values else _without_values(record)))

    handler = logging.Handler(logging.WARNING)
    handler.emit = emit  # type: ignore[method-assign]
    logger = logging.getLogger(library)
    logger.handlers = [handler]
    logger.propagate = False


def configure_log(**common: object) -> None:
    """Configure structlog for the whole process. Every line has the keys and values of ``common``."""
    if sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty():
        coloured = not os.environ.get("NO_COLOR")  # no-color.org: any value that is not empty asks for plain text
        time_stamper = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="time")
        renderer: Any = ConsoleRenderer(
            colors=coloured, sort_keys=False, timestamp_key="time", exception_formatter=plain_traceback
        )
    else:
        time_stamper = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
        renderer = structlog.processors.LogfmtRenderer()
    structlog.configure(
        processors=[
            RateLimit(Limits().log_burst),  # the log starts before the server's settings are read
            lambda _logger, _method, event: {**common, **event},
            structlog.processors.add_log_level,
            time_stamper,
            structlog.processors.format_exc_info,
            _make_printable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # Write each line together with its newline, because workers share the file.
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Writer())),
    )
