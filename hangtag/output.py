"""Shows a command's errors in one line, and writes the files that the command's options name."""

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
    """Turn a UserError that is raised in this context into a ClickException, which click prints in one line.

    The root command runs every subcommand in this context. Control characters in the message are shown as escapes,
    because the message may quote a server or a model's file.

    Raises:
        click.ClickException: the UserError's message, with the exit code 1.
    """
    try:
        yield
    except UserError as error:
        raise click.ClickException(escaped(str(error))) from error


def require_writable(path: Path) -> None:
    """Check that a file can be written, before a command spends minutes on computing the content.

    Missing folders are allowed, because ``writing`` creates them. This function does not detect a full disk.

    Raises:
        OutputError: One of: the path is a folder; a part of the path is a file; permissions forbid writing.
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
    """Write text and a line break to a file, which is replaced atomically; "-" means standard output.

    Raises:
        OutputError: the file cannot be written, for example because the disk is full. An existing file keeps its
            content.
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
    """Write a page, or report which package is missing to draw the page.

    A missing package is not an error, because the command's other results are already written.

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
    """Create the folders above a file before the context writes the file, and then report the file on standard error.

    Raises:
        OutputError: the context raised an OSError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"wrote {path}", err=True)
