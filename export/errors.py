"""What can stop an export, for a person to read: ExportError and its kinds. Shown as one line, exit code 1."""

import click


class ExportError(click.ClickException):
    """Base of everything that this package raises on purpose."""


class ParityError(ExportError):
    """The exported file does not answer as the PyTorch network does; nothing was published."""
