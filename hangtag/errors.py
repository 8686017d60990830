"""The base of every error that the user can fix: a leaf module, which each package of hangtag may import.

A package derives its errors from ``UserError`` and raises them without knowing of a command line. The root command
shows such an error as one line on standard error, without a traceback, and exits with 1. Any other exception is a bug
of hangtag's and ends with its traceback. Code that runs outside of the root command, such as a process that a command
starts, or a command of another program, shows such errors in the same way with ``hangtag.output.one_line_errors``.
"""

import json


class UserError(Exception):
    """A problem that the user can fix. The message says what was wrong, what was expected, and what to do."""


class DataNotFoundError(UserError):
    """A data set, or one of its files, could not be found or downloaded."""


class DataCorruptError(UserError):
    """A data set's file does not have the published SHA-256, is malformed, or cannot be read."""


def reason(error: Exception) -> str:
    """Why a file or a text cannot be read, as a clause for people; an unknown error keeps its own text.

    Example:
        >>> reason(FileNotFoundError(2, "No such file or directory"))
        'no such file or directory'
    """
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
