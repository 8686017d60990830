"""What a command shows and writes: errors in one line, and the files that its options name."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hangtag.errors import UserError
from hangtag.extras import MissingExtraError, needs
from hangtag.printable import escaped


class OutputError(UserError):
    """A file that the user named cannot be written."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a UserError that is raised in this context into click's, which ends the command with one line.

    The root command wraps every subcommand in this. Control characters in the message, whose text may come from a
    server or a model's file, are shown as escapes.

    Raises:
        click.ClickException: with the error's message; its exit code is 1.
    """
    try:
        yield
    except UserError as error:
        raise click.ClickException(escaped(str(error))) from error


def require_writable(path: Path) -> None:
    """Check that a file can be written, before a command spends minutes on its content.

    Missing folders are fine, because ``writing`` creates them. A full disk is noticed only when the file is written.

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
    """Write text, ended by a line break, to standard output for "-", else to a file, which is replaced as a whole.

    Raises:
        OutputError: the file cannot be written. Its old content stays, for example if the disk is full.
    """
    text = text.removesuffix("\n")
    if file == "-":
        click.echo(text)
        return
    with writing(Path(file)):
        _replace(Path(file), f"{text}\n")


def _replace(file: Path, text: str) -> None:
    partial_file = file.with_name(f".{file.name}.part")
    if (file.exists() and not file.is_file()) or file.is_symlink() or not os.access(file.parent, os.W_OK):
        file.write_text(text, encoding="utf-8")
        return
    try:
        partial_file.write_text(text, encoding="utf-8")
        partial_file.replace(file)
    finally:
        partial_file.unlink(missing_ok=True)


def write_page(file: Path, make: Callable[[], str]) -> None:
    """Write a page. If packages that draw the page are missing, report that and continue: the command's work is already
    done.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with needs("export", "the page"):
            text = make()
    except MissingExtraError as error:
        click.echo(f"no page: {error}", err=True)
        return
    write_text(str(file), text)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Create the folders above a file that is written in this context, then report the file on standard error.

    Raises:
        OutputError: an OSError was raised in the context.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"wrote {path}", err=True)
