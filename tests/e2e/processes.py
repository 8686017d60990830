"""Runs hangtag's commands as a user does, each in a process of its own.

Those that train and serve are the console script. The others, which start in many tests, are forked from a process
that has imported them; tests/kit/forkserver.py says how.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.command import run_forked

ROOT = Path(__file__).parents[2]
HANGTAG = Path(sys.executable).with_name("hangtag")
START_SECONDS = 60
FORKED = ("health", "classify", "top", "loadtest", "models", "evaluate", "export")
SECONDS = 200


def hangtag(*arguments: str | Path, exit_codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    """Runs ``hangtag ARGUMENTS`` to its end.

    Raises:
        AssertionError: the exit code is not among exit_codes; the message has everything that the command printed.
    """
    command = [str(HANGTAG), *map(str, arguments)]
    if arguments[0] in FORKED:
        process = run_forked(command[1:], os.environ, SECONDS)
    else:
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert process.returncode in exit_codes, f"exit code {process.returncode}\n{process.stdout}\n{process.stderr}"
    return process


class ServerProcess:
    """A ``hangtag serve`` whose log has reported that it is ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._line_read = threading.Condition()
        self._ready_or_ended = threading.Event()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self._ready_or_ended.wait(START_SECONDS)
        ready = re.search(r"^address=(\S+) .*event=ready ", self.log, re.MULTILINE)
        assert ready, f"the server was not ready within {START_SECONDS} s; its log:\n{self.log}"
        self.address = ready[1]
        http = re.search(r"^address=.* http=(\S+) .*event=ready ", self.log, re.MULTILINE)
        self.http_address = http[1] if http else ""

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def wait_for(self, text: str) -> str:
        """Waits until the log has this text, and returns its line."""
        with self._line_read:
            assert self._line_read.wait_for(lambda: text in self.log, START_SECONDS), self.log
        return next(line for line in self._lines if text in line)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends the signal, waits until the process ends, and returns its exit code."""
        self._process.send_signal(number)
        code = self._process.wait(30)
        self._reader.join(30)
        return code

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._line_read:
                self._lines.append(line)
                self._line_read.notify_all()
            if "event=ready " in line:
                self._ready_or_ended.set()
        self._ready_or_ended.set()


@contextmanager
def serving(models: Path, *options: str) -> Iterator[ServerProcess]:
    """Starts a server on a free port, and kills it at the end if it still runs."""
    command = [
        str(HANGTAG),
        "serve",
        "--models",
        str(models),
        "--port",
        "0",
        "--http-port",
        "0",
        "--metrics-port",
        "0",
        *options,
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield ServerProcess(process)
        finally:
            process.kill()
