"""What a command shows and writes: errors in one line, and the files that its options name."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hangtag.errors import UserError
from hangtag.printable import escaped


class OutputError(UserError):
    """A file that the user named cannot be written."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a UserError that is raised in this context into click's, which ends the command with one line.

    The root command wraps every subcommand in this. Control characters in the message, which may be a server's or of
    a model's file, are shown as escapes.

    Raises:
        click.ClickException: with the error's message; its exit code is 1.
    """
    try:
        yield
    except UserError as error:
        raise click.ClickException(escaped(str(error))) from error


def require_writable(path: Path) -> None:
    """Check that a file can be written, before a command spends minutes on what goes into it.

    Missing folders are no obstacle, since ``writing`` creates them. A full disk shows only when the file is written.

    Raises:
        OutputError: the path is a folder, lies below a file, or its permissions forbid writing.
    """
    above = next(folder for folder in (path.parent, *path.absolute().parents) if folder.exists())
    if path.is_dir():
        code = errno.EISDIR
    elif not above.is_dir():
        code = errno.ENOTDIR
    elif not os.access(path if path.exists() else above, os.W_OK):
        code = errno.EACCES
    else:
        return
    raise OutputError(f"cannot write {path}: {os.strerror(code)}")


def write_text(file: str, text: str) -> None:
    """Write text and a line break to a file, or to standard output for "-".

    Raises:
        OutputError: the file cannot be written.
    """
    if file == "-":
        click.echo(text)
        return
    with writing(Path(file)):
        Path(file).write_text(text + "\n", encoding="utf-8")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Create the folders above a file that is written in this context, and report on standard error that it was.

    Raises:
        OutputError: an OSError was raised in the context.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"wrote {path}", err=True)
