"""What the commands export and import ask and print on the terminal."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import click

from hangtag.export.errors import IncomparableError
from hangtag.printable import escaped
from hangtag.serving import model_repository
from hangtag.serving.model_repository import ModelRepositoryError

T = TypeVar("T")


def even_if_worse(publish: Callable[[bool], T], *, asked: bool) -> T:
    """Publish; where the version that serves cannot be compared, ask on a terminal whether to publish all the same.

    Args:
        publish: gets whether to publish a version that is worse, or cannot be compared.
        asked: whether the command line asks for that.
    """
    try:
        return publish(asked)
    except IncomparableError as error:
        if not sys.stdin.isatty():
            raise
        click.confirm(f"{escaped(str(error))} Publish it all the same?", abort=True, err=True)
        return publish(True)


def print_published(folder: Path, summaries: Mapping[str, str], page: Path) -> None:
    """Print what was published, the checks that it passed, and where the report is."""
    click.echo(f"published {folder}")
    for check, summary in summaries.items():
        click.echo(escaped(f"  {check:<12} {summary}"))
    if note := promotion_note(folder):
        click.echo(note, err=True)
    click.echo(f"report: {page}", err=True)


def promotion_note(folder: Path) -> str | None:
    """What to do if the published version does not serve; None if it does."""
    name, version = folder.parent.name, folder.name
    try:
        serving = model_repository.versions_in(folder.parent)[0].version
    except ModelRepositoryError as error:
        return f"note: {error}"
    if str(serving) == version:
        return None
    return f"note: version {serving} is promoted and goes on serving. Next: hangtag models promote {name} {version}"
