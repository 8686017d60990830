"""Ctrl-C during an export: one line says whether a version was published, and the exit code is 130."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hangtag.serving.model_repository import ModelRepositoryError, numbered_versions


@contextmanager
def reported(models: Path, name: str) -> Iterator[None]:
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
