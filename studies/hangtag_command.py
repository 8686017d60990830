"""Run `hangtag` commands as a user would."""

import shlex
import subprocess
import sys
from collections.abc import Sequence

import click


def hangtag(arguments: Sequence[str], *, dry_run: bool = False) -> None:
    """Print and run a hangtag command with this interpreter. Raises click.ClickException if the command fails."""
    click.echo(f"hangtag {shlex.join(arguments)}")
    if not dry_run and (status := subprocess.run([sys.executable, "-m", "hangtag", *arguments]).returncode):
        raise click.ClickException(f"hangtag {arguments[0]} ended with status {status}.")
