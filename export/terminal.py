"""What the commands export and import have in common: options, a question, what is printed, and Ctrl-C."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click

from hangtag.export.errors import IncomparableError
from hangtag.export.quantization.precision import PRECISIONS
from hangtag.export.repository import promotion
from hangtag.printable import escaped
from hangtag.serving.model_repository import ModelRepositoryError, numbered_versions

T = TypeVar("T")
reports_option = click.option(
    "--reports",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("reports/export"),
    show_default=True,
    help="Folder for the report about the export, NAME-VERSION.html; in it a repository other than models has its own.",
)
even_if_worse_option = click.option(
    "--even-if-worse",
    is_flag=True,
    help="Publish also if the version that serves is better, or has no figure to compare with.",
)
even_if_different_option = click.option(
    "--even-if-different",
    is_flag=True,
    help="Publish also if the version that serves has other inputs, outputs or labels, which its callers rely on.",
)


def precision_option(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option --precision, with this help."""
    return click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True, help=what)


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
    if note := promotion.note(folder):
        click.echo(note, err=True)
    click.echo(f"report: {page}", err=True)


@contextmanager
def interruption_reported(models: Path, name: str) -> Iterator[None]:
    """End the command with one line, if Ctrl-C interrupts this context.

    Whether a version was published is read from the repository, because the signal may come at any moment, also between
    the renaming that publishes and the return of the function that does it.

    Args:
        models: the model repository.
        name: the model that is published in this context.

    Raises:
        SystemExit: with 130, the status that a shell gives a process that SIGINT ended.
    """
    before = _versions(models / name)
    try:
        yield
    except KeyboardInterrupt:
        published = _versions(models / name) - before
        what = (
            f"{models / name / str(max(published))} was published, without a report"
            if published
            else "nothing was published"
        )
        click.echo(f"stopped; {what}", err=True)
        raise SystemExit(130) from None


def _versions(folder: Path) -> set[int]:
    try:
        return {file.version for file in numbered_versions(folder)}
    except ModelRepositoryError:  # there is no such folder yet
        return set()
