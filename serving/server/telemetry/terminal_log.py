"""Writes a line of the log for a person at a terminal: time, event, then each key with its value, in colour."""

from collections.abc import Mapping
from datetime import datetime

from structlog.typing import EventDict

READY = "ready"
_EVENT_WIDTH = 16
_RESET, _DIM = "\x1b[0m", "\x1b[2m"
_BOLD_GREEN, _YELLOW, _BOLD_RED = "\x1b[1;32m", "\x1b[33m", "\x1b[1;31m"
_STYLES: Mapping[str, str] = {"warning": _YELLOW, "error": _BOLD_RED, "critical": _BOLD_RED}


class TerminalRenderer:
    """A structlog processor, the last one, after `make_printable`.

    It expects `level` and `time`, as ISO 8601, besides the event.
    """

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured

    def __call__(self, _logger: object, _method: str, event_dict: EventDict) -> str:
        values = dict(event_dict)
        level, event = str(values.pop("level")), _in_words(values.pop("event"))
        time = datetime.fromisoformat(str(values.pop("time"))).astimezone()
        traceback = values.pop("exception", None)
        is_ready = event == READY
        words = f"{level}: {event}" if level in _STYLES else event
        style = _BOLD_GREEN if is_ready else _STYLES.get(level, "")
        parts = [
            self._styled(f"{time:%H:%M:%S}", _DIM),
            self._styled(f"{'●' if is_ready else ' '} {words:<{_EVENT_WIDTH}}", style),
            *(f"{self._styled(key.replace('_', ' '), _DIM)} {_in_words(value)}" for key, value in values.items()),
        ]
        line = "  ".join(parts).rstrip()
        return line if traceback is None else f"{line}\n{traceback}"

    def _styled(self, text: str, style: str) -> str:
        return f"{style}{text}{_RESET}" if style and self._coloured else text


def _in_words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
