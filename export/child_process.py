"""A question about a file that can end the process that loads it, asked of one of our modules in a child process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class ChildEndedError(Exception):
    """A signal ended the child."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


class ChildFailedError(Exception):
    """The child gave no answer: in time, or at all."""


def ask(module: str, path: Path, seconds: float) -> dict[str, Any]:
    """The JSON object that ``python -m module path`` writes as its last line.

    Raises ChildEndedError and ChildFailedError.
    """
    # -P: or whatever is called numpy.py in the folder that somebody works in would be run.
    command = [sys.executable, "-P", "-m", module, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ChildFailedError(f"there was no answer within {seconds:g} s") from error
    if done.returncode < 0:
        raise ChildEndedError(-done.returncode)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        # Of a traceback the last line is what happened.
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1].strip()
        raise ChildFailedError(f"the process ended with exit code {done.returncode}: {last[:300]}") from error
    return answer
