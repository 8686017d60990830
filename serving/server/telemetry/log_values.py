"""Makes what is logged safe to print: callers and model files choose some values, and their length."""

from typing import Any

from structlog.typing import EventDict

from hangtag.printable import escaped

LONGEST_VALUE = 2000
"""Characters of a value that are written; the rest is counted."""
LONGEST_TRACEBACK = 20_000
"""Characters at the end of a traceback that are written: its last line has the error."""


def make_printable(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    """A structlog processor, to be used after the one that turns an exception into its traceback.

    Terminal escapes could rewrite what a person sees, a line break could forge a line, and a long value could fill the
    disk. So unprintable characters are written as Python's escapes, and long values are cut.
    """
    traceback = event_dict.get("exception")
    values = {key: _printable(value) for key, value in event_dict.items()}
    if isinstance(traceback, str):
        values["exception"] = "\n".join(map(escaped, traceback[-LONGEST_TRACEBACK:].split("\n")))
    return values


def _printable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_printable(each) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    cut = f"… ({len(text):,} characters)" if len(text) > LONGEST_VALUE else ""
    return escaped(text[:LONGEST_VALUE]) + cut
