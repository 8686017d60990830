"""Run one of our modules on a file in a child process, since loading a file can end the process that does it."""

import json
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread
from typing import IO, Any


class ChildAbortedError(Exception):
    """A signal ended the child process."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


class ChildFailedError(Exception):
    """The child process gave no answer in time, or ended without one."""


def run(module: str, path: Path, seconds: float, on_line: Callable[[str], object] = str) -> dict[str, Any]:
    """Run ``python -m module path``, and return the JSON object that is its last line on standard output.

    Args:
        on_line: gets each line that the child writes to standard error, at once, in a thread of its own.

    Raises:
        ChildAbortedError: a signal ended the child.
        ChildFailedError: it gave no answer within ``seconds``, or ended without one.
    """
    # -P keeps the working directory out of sys.path, so that a numpy.py that lies there is not run.
    command = [sys.executable, "-P", "-m", module, str(path)]
    lines = deque(["it wrote no message"], maxlen=1)  # the last line of a traceback names the exception

    def follow(stream: IO[str]) -> None:
        for line in stream:
            if line.strip():
                lines.append(line.strip())
                on_line(line.rstrip("\n"))

    with (
        TemporaryFile("w+", encoding="utf-8") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True) as process,
    ):
        assert process.stderr is not None
        follower = Thread(target=follow, args=(process.stderr,))
        follower.start()
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise ChildFailedError(f"there was no answer within {seconds:g} s") from error
        finally:  # also after Ctrl-C
            process.kill()
            follower.join()
        output.seek(0)
        answer = output.read()
    if code < 0:
        raise ChildAbortedError(-code)
    try:
        parsed: dict[str, Any] = json.loads(answer.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise ChildFailedError(f"the process ended with exit code {code}: {lines[-1][:300]}") from error
    return parsed
