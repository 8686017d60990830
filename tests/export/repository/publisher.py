"""Publishing from other processes: from several at the same time, or from one that is killed midway."""

import os
import signal
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import click

from hangtag.export.repository.publishing import publish
from tests.kit.forkserver import CONTEXT, Forked

_SYSTEM = ("os", "shutil", "tempfile", "fcntl", "open", "pathlib")
"""The prefixes of the audit events that Python raises for system calls."""


def publish_content(models: Path, name: str, content: str) -> Path:
    """Publish a file with this content as the next version. Returns the version's folder."""
    with publish(models, name) as publication:
        publication.model_file.write_text(content)
    return publication.folder


def published_at_once(models: Path, name: str, contents: list[str]) -> list[Path]:
    """Publish each of ``contents`` from its own process. Every process waits until all are about to rename a folder."""
    barrier = CONTEXT.Barrier(len(contents))
    processes = [Forked(_publish_with_others, models, name, content, barrier) for content in contents]
    folders = []
    for process in processes:
        with process:
            output, errors = process.communicate(60)
        assert process.returncode == 0, errors
        folders.append(Path(output.strip()))
    return folders


def _publish_with_others(models: Path, name: str, content: str, barrier: Barrier) -> None:
    moves: list[str] = []

    def wait_before_the_first_move(event: str, _: object) -> None:
        if event == "os.rename" and not moves:
            moves.append(event)
            barrier.wait(60)

    sys.addaudithook(wait_before_the_first_move)
    click.echo(publish_content(models, name, content))


def killed_at(moment: int, models: Path) -> bool:
    """Publish in a process that is killed before its n-th system call, such as open, mkdir or rename.

    Returns:
        Whether the process was killed; False if it ended before the n-th call.
    """
    with Forked(_publish_and_die, moment, models) as process:
        code = process.wait(60)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _publish_and_die(moment: int, models: Path) -> None:
    steps = 0

    def count(event: str, _: object) -> None:
        nonlocal steps
        if event.partition(".")[0] in _SYSTEM:
            steps += 1
            if steps == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    publish_content(models, "cnn", "new")
