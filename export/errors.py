"""Errors that can stop an export, with a message for the user: ExportError and its subclasses."""

from hangtag.errors import UserError


class ExportError(UserError):
    """Base of all exceptions that this package raises on purpose."""


class RecordError(ValueError):
    """A file's record about itself is missing or damaged. The message is a clause for the user."""


class PicturesGoneError(ExportError):
    """The pictures behind recorded figures are missing or have changed, so the figures cannot be computed again."""


class GateError(ExportError):
    """A file failed a check of the gate, and nothing was published.

    check: the name of the check, with which the message begins.
    reason: the message without that name.
    """

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(f"{check}: {reason} Nothing was published.")
        self.check = check
        self.reason = reason

    def __reduce__(self) -> tuple[type["GateError"], tuple[str, str]]:
        return type(self), (self.check, self.reason)  # a child process pickles it
