"""Publishes in processes of their own, which wait or are killed in the middle."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hangtag.export.repository.publishing import publish
from tests.kit.forkserver import Forked

CONFIG = "# Written by hangtag export: a request must not be answered together with another one.\n"
"""A config.pbtxt that the next export may replace."""
_SYSTEM = ("os", "shutil", "tempfile", "fcntl", "open", "pathlib")
"""What the audit events of the operating system's calls begin with."""


def publish_content(models: Path, name: str, content: str | bytes, config: str = "") -> Path:
    """Publish a file with this content as the next version; return the version's folder."""
    with publish(models, name) as publication:
        publication.model_file.write_bytes(content.encode() if isinstance(content, str) else content)
        if config:
            publication.config_file.write_text(config)
    return publication.folder


class Waiting:
    """A process that publishes a file, and waits until it is released."""

    def __init__(self, process: Forked, release: Path) -> None:
        self.process = process
        self._release = release

    def finish(self) -> Path:
        """Let it go on, and return the folder that it published."""
        self._release.write_text("go")
        assert self.process.wait(60) == 0
        return Path(self.process.stdout.readline().strip())


@contextmanager
def waiting(models: Path, name: str, source: Path, stop: str) -> Iterator[Waiting]:
    """Another process that publishes a file, once it waits: "half written", or "written" and about to be moved."""
    reached = source.with_suffix(".reached")
    release = source.with_suffix(".release")
    for fifo in (reached, release):
        os.mkfifo(fifo)
    with Forked(_wait, models, name, source, stop, reached, release) as process:
        with reached.open() as stream:
            assert stream.read() == stop
        yield Waiting(process, release)


def _wait(models: Path, name: str, source: Path, stop: str, reached: Path, release: Path) -> None:
    def wait(here: str) -> None:
        if here == stop:
            reached.write_text(here)
            release.read_text()  # a FIFO: until somebody writes

    moves: list[str] = []

    def on_event(event: str, _: object) -> None:
        if event == "os.rename" and not moves:
            moves.append(event)
            wait("written")

    sys.addaudithook(on_event)
    content = source.read_bytes()
    with publish(models, name) as publication, publication.model_file.open("wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        wait("half written")
        file.write(content[len(content) // 2 :])
    click.echo(publication.folder)


def killed_at(moment: int, models: Path, config: str) -> bool:
    """Publish in a process that is killed before its n-th call of the operating system: open, mkdir, rename and so on.

    Returns:
        Whether it was killed; False where it ended before.
    """
    with Forked(_publish_and_die, moment, models, config) as process:
        code = process.wait(60)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _publish_and_die(moment: int, models: Path, config: str) -> None:
    steps = 0

    def count(event: str, _: object) -> None:
        nonlocal steps
        if event.partition(".")[0] in _SYSTEM:
            steps += 1
            if steps == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    publish_content(models, "cnn", "new", config)
