"""Publish a file in a process of its own: python -m tests.export.publisher MODELS NAME SOURCE STOP.

At the stop, "half written" or "written", the process prints the stop's name and waits for a line on standard input, or
to be killed.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import click

from hangtag.export.repository import publishing


def main(models: Path, name: str, source: Path, stop: str) -> None:
    content = source.read_bytes()
    setattr(publishing, "sync", waiting_after_last(publishing.sync, stop))  # noqa: B010  (mypy knows its type)
    with publishing.publish(models, name) as publication, publication.model_file.open("wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        wait("half written", stop)
        file.write(content[len(content) // 2 :])
    click.echo(f"published {publication.folder}")


def waiting_after_last(sync: Callable[[Path], None], stop: str) -> Callable[[Path], None]:
    """The function, which waits after the staging folder was synced: the last step before the move."""

    def wrapped(path: Path) -> None:
        sync(path)
        if path.name.startswith(".publishing-"):
            wait("written", stop)

    return wrapped


def wait(here: str, stop: str) -> None:
    if here == stop:
        click.echo(here)
        sys.stdin.readline()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
