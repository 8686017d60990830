"""What the tests of publishing share: something to write, what is served, and another process that publishes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hangtag.serving.model_repository import latest_versions

PUBLISHER = "tests.export.publisher"


def writes(what: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(what)

    return write


def served(models: Path) -> dict[str, int]:
    """What a server would serve."""
    return {file.name: file.version for file in latest_versions(models)}


@contextmanager
def publisher(models: Path, name: str, source: Path, gate: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that publishes, once it stands at the gate."""
    command = [sys.executable, "-m", PUBLISHER, str(models), name, str(source), gate]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{gate}\n"
            yield process
        finally:
            process.kill()
