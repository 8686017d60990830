"""Files that a command writes because it was told to: what could not be written is said in one line."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click


def require_writable(path: Path) -> None:
    """Raises ClickException for a file that cannot be written: for a command to ask before minutes of work.

    The folders above it are made when it is written. What only writing shows, such as a full disk, is told then.
    """
    above = next(folder for folder in (path.parent, *path.absolute().parents) if folder.exists())
    if path.is_dir():
        trouble = errno.EISDIR
    elif not above.is_dir():
        trouble = errno.ENOTDIR
    elif not os.access(path if path.exists() else above, os.W_OK):
        trouble = errno.EACCES
    else:
        return
    raise click.ClickException(f"cannot write {path}: {os.strerror(trouble)}")


def write_text(file: str, text: str) -> None:
    """Write text to a file, or to standard output for "-". Raises ClickException when that cannot be done."""
    if file == "-":
        click.echo(text)
        return
    with writing(Path(file)):
        Path(file).write_text(text + "\n", encoding="utf-8")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder that path lies in, and say in one line what went wrong; say so too when path is written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"wrote {path}", err=True)
