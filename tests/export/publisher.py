"""Publishes a file in a process of its own: publisher.py MODELS NAME SOURCE GATE.

Says where it stands on standard output. At the gate it waits for a line on standard input, or to be killed.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hangtag.export.repository import publishing as repository


def main(models: Path, name: str, source: Path, gate: str) -> None:
    contents = source.read_bytes()

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(contents[: len(contents) // 2])
            file.flush()
            pause("half written", gate)
            file.write(contents[len(contents) // 2 :])

    sync = repository._sync
    repository._sync = after(lambda: pause("written", gate), sync)
    click.echo(f"published {repository.publish(models, name, write)}")


def after(pausing: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, pausing once it has been called for the last thing that is written before the move."""

    def wrapped(path: Path) -> None:
        function(path)
        if path.name.startswith(".publishing-"):
            pausing()

    return wrapped


def pause(here: str, gate: str) -> None:
    if here == gate:
        click.echo(here)
        sys.stdin.readline()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
