"""Errors that can stop an export, with a message for the user: ExportError and its subclasses."""

from hangtag.errors import UserError


class ExportError(UserError):
    """The base class of this package's errors that a user can correct."""


class RecordError(ValueError):
    """The metadata that a file records about itself are missing or damaged. The message is a clause, without a full
    stop."""


class PicturesGoneError(ExportError):
    """The pictures of a recorded measurement are missing or have changed, so it cannot be repeated."""


class GateError(ExportError):
    """A file failed a check of the gate, and nothing was published.

    check: the name of the check. The message begins with this name.
    reason: the message without the name of the check.
    """

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(f"{check}: {reason} Nothing was published.")
        self.check = check
        self.reason = reason

    def __reduce__(self) -> tuple[type["GateError"], tuple[str, str]]:
        return type(self), (self.check, self.reason)  # so that a child process can pickle the error
