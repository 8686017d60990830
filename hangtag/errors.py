"""The base class of every error that the user can fix. Each package of hangtag may import this module.

The root command shows a UserError as one line on standard error, without a traceback, and exits with 1. Any other
exception is a bug in hangtag and ends the command with a traceback. ``hangtag.output.one_line_errors`` shows UserErrors
in the same way outside of the root command, for example in a child process.
"""

import json


class UserError(Exception):
    """A problem that the user can fix. The message says what is wrong, what is expected, and what to do."""


class DataNotFoundError(UserError):
    """A data set, or a file of a data set, could not be found or downloaded."""


class DataCorruptError(UserError):
    """A file of a data set does not have the published SHA-256, is malformed, or cannot be read."""


def reason(error: Exception) -> str:
    """Say in a clause why a file or a text cannot be read, such as "no such file or directory". For an unknown error,
    return the error's own text."""
    match error:
        case json.JSONDecodeError():
            return f"it is not JSON: see line {error.lineno}, column {error.colno}"
        case UnicodeDecodeError():
            return "it is not UTF-8"
        case RecursionError():
            return "it is nested too deeply"
        case OSError(strerror=str(words)):
            return words[:1].lower() + words[1:]
    return " ".join(str(error).split())
