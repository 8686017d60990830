"""What can stop an export, for a person to read: ExportError and its kinds. Shown as one line, exit code 1."""

import click


class ExportError(click.ClickException):
    """Base of everything that this package raises on purpose."""


class GateError(ExportError):
    """A file did not pass the gate; nothing was published.

    check: the name of the check that it failed, which the message begins with.
    """

    def __init__(self, check: str, why: str) -> None:
        super().__init__(f"{check}: {why} Nothing was published.")
        self.check = check
        self.why = why
