"""Runs `hangtag train` in this process or in another, and reads its output."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner, Result

from hangtag.cli import main
from tests.kit import forkserver
from tests.kit.forkserver import Forked

HANGTAG = Path(sys.executable).with_name("hangtag")
EPOCHS = 4


def hangtag(arguments: list[str], out: Path | None = None) -> Result:
    """The command in this process; an exception that it does not handle fails the test."""
    result = CliRunner().invoke(main, [*arguments, *(["--out", str(out)] if out else [])])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def start(arguments: list[str], out: Path) -> Forked:
    return forkserver.hangtag([*arguments, "--out", out])


def wait_until(condition: Callable[[], bool], process: Forked | subprocess.Popen[str]) -> None:
    deadline, pause = time.monotonic() + 120, threading.Event()
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        pause.wait(0.005)


def one_error(result: Result) -> str:
    """The one line of a failed command's error."""
    assert result.exit_code == 1, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.output
    assert lines == result.output.splitlines()[-1:]
    assert "Traceback" not in result.output
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
