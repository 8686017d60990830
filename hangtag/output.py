"""Shows a command's errors in one line, and writes the files that the command's options name."""

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
    """Turn a UserError that is raised in this context into a ClickException, which click prints in one line.

    Control characters in the message are shown as escapes, because the message may quote a server or a model's file.
    """
    try:
        yield
    except UserError as error:
        raise click.ClickException(escaped(str(error))) from error


def require_writable(path: Path) -> None:
    """Raise OutputError if a file cannot be written, before a command spends minutes on computing the content. Missing
    folders are allowed, because ``writing`` creates them. This function does not detect a full disk."""
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

    Raises OutputError if the file cannot be written, for example because the disk is full. An existing file keeps its
    content.
    """
    path, text = Path(file), text.removesuffix("\n")
    if file == "-":
        click.echo(text)
        return
    with writing(path):
        # Write directly if the target is a device or a link, which must not be replaced, or if the folder is read-only.
        if (path.exists() and not path.is_file()) or path.is_symlink() or not os.access(path.parent, os.W_OK):
            path.write_text(f"{text}\n", encoding="utf-8")
            return
        partial_file = path.with_name(f".{path.name}.part")
        try:
            partial_file.write_text(f"{text}\n", encoding="utf-8")
            partial_file.replace(path)
        finally:
            partial_file.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Create the folders above a file, let the body of the ``with`` statement write the file, and report the file on
    standard error. Turn an OSError into an OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        # mkdir() raises FileExistsError if a file has the folder's name; "File exists" would seem to be about ``path``.
        why = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror
        raise OutputError(f"cannot write {path}: {why}") from error
    click.echo(f"wrote {path}", err=True)
