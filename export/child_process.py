"""Run one of our modules on a file in a child process, since loading a file can end the process that does it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class ChildAbortedError(Exception):
    """A signal ended the child process."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


class ChildFailedError(Exception):
    """The child process gave no answer in time, or ended without one."""


def run(module: str, path: Path, seconds: float) -> dict[str, Any]:
    """Run ``python -m module path``, and return the JSON object that is its last line on standard output.

    Raises:
        ChildAbortedError: a signal ended the child.
        ChildFailedError: it gave no answer within ``seconds``, or ended without one.
    """
    # -P keeps the working directory out of sys.path, so that a numpy.py that lies there is not run.
    command = [sys.executable, "-P", "-m", module, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ChildFailedError(f"there was no answer within {seconds:g} s") from error
    if done.returncode < 0:
        raise ChildAbortedError(-done.returncode)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        # The last line of a traceback names the exception.
        last = (done.stderr.strip().splitlines() or ["it wrote no message"])[-1].strip()
        raise ChildFailedError(f"the process ended with exit code {done.returncode}: {last[:300]}") from error
    return answer
