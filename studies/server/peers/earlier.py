"""Starts the server of another commit, from a git worktree that lasts as long as it is needed."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from studies.page import ROOT
from studies.server.process import Launch, hangtag_serve


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit.

    Raises:
        click.ClickException: git is missing, or this repository does not have the commit.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "hangtag"
        _git(commit, "worktree", "add", "--quiet", "--detach", folder, commit)
        try:
            yield folder
        finally:
            _git(commit, "worktree", "remove", "--force", folder)


def earlier(folder: Path, models: Path, *options: str) -> Launch:
    """`hangtag serve` of the files in `folder`, on the packages and the models of this repository."""
    launch = hangtag_serve(models, *options)
    # `python -m` looks into the working directory first, then into PYTHONPATH, then where hangtag is installed.
    return replace(launch, environment={"PYTHONPATH": folder}, folder=folder)


def _git(commit: str, *arguments: str | Path) -> None:
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
    except OSError as error:
        raise click.ClickException(
            f"git cannot be run ({error}): install it, or leave out the earlier server."
        ) from error
    if done.returncode:
        raise click.ClickException(
            f"git cannot check out commit {commit}: {done.stderr.strip()}. Name a commit of this repository with "
            "--commit (in a shallow clone run 'git fetch --unshallow' first), or leave out the earlier server."
        )
