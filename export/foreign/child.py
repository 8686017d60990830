"""Asking somebody else's file in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from export.errors import GateError

_SECONDS = 600.0


def ask(target: Path, called: Path) -> dict[str, Any]:
    """What export.foreign.probe finds. called: the file's name in messages.

    Raises GateError for a file that is refused, that ends the process, or that does not answer.
    """
    command = [sys.executable, "-m", "export.foreign.probe", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise GateError("runtime", f"ONNX Runtime does not answer {called} within {_SECONDS:g} s.") from error
    if done.returncode < 0:
        raise GateError("runtime", f"ONNX Runtime ends the process (signal {-done.returncode}) on {called}.")
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise GateError("runtime", f"asking about {called} failed: {' '.join(done.stderr.split())[-500:]}.") from error
    if "refused" in found:
        raise GateError("runtime", found["refused"].replace(str(target), str(called)))
    return found
