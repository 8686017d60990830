"""Runs the command ``hangtag`` in processes of its own, and follows the log of ``hangtag serve``."""

import os
import re
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.kit import forkserver

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0


def environment(**more: str) -> dict[str, str]:
    """This process's environment without the variables that configure the command, and with ``more``."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HANGTAG_", "GRPC_", "ORT_"))}
    ours = {
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
        "HANGTAG_SERVE_METRICS_PORT": "0",
        "HANGTAG_SERVE_HTTP_PORT": "0",
    }
    return inherited | ours | more


def hangtag(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return run_forked(arguments, environment(**more))


def run_forked(
    arguments: Sequence[str], variables: Mapping[str, str], seconds: float = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Run the command in a forked process to its end. What it prints must fit into a pipe."""
    with forkserver.hangtag(arguments, variables=variables) as process:
        stdout, stderr = process.communicate(seconds)
        return subprocess.CompletedProcess(arguments, process.wait(), stdout, stderr)


def last_line(text: str) -> str:
    """The last line of what a command wrote, which has no traceback."""
    assert "Traceback" not in text
    return text.splitlines()[-1]


class Serving:
    """A running ``hangtag serve``; a thread reads its log."""

    def __init__(self, *arguments: str, first: str = "", **more: str) -> None:
        """first: Python statements that the process executes before the command."""
        self.process = forkserver.hangtag(["serve", *arguments], variables=environment(**more), first=first)
        self.log: list[str] = []
        self._grew = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, event: str) -> str:
        """Wait for the log's line of this event. Raises AssertionError if the process ends without it."""

        def matching_line() -> str | None:
            return next((line for line in self.log if f"event={event} " in f"{line.strip()} "), None)

        with self._grew:
            assert self._grew.wait_for(lambda: matching_line() or self._ended, TIMEOUT), self.log
            line = matching_line()
        assert line, "".join(self.log)
        return line

    def wait_for_count(self, event: str, count: int) -> None:
        """Wait until the log has so many lines of this event."""

        def matching_lines() -> int:
            return sum(f"event={event} " in f"{line.strip()} " for line in self.log)

        with self._grew:
            assert self._grew.wait_for(lambda: matching_lines() >= count or self._ended, TIMEOUT), self.log
            assert matching_lines() >= count, "".join(self.log)

    def wait_until_ready(self) -> str:
        """Wait for the server to be ready; returns its address."""
        match = re.search(r"address=(\S+)", self.wait_for("ready"))
        assert match
        return match[1]

    def metrics(self) -> str:
        """The server's metrics, in Prometheus' text format."""
        match = re.search(r"url=(\S+)", self.wait_for("metrics"))
        assert match
        with urllib.request.urlopen(match[1], timeout=TIMEOUT) as response:
            return str(response.read().decode())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the process to end; returns its exit code. ``log`` is complete then."""
        code = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return code

    def _read(self) -> None:
        for line in self.process.stderr:
            with self._grew:
                self.log.append(line)
                self._grew.notify_all()
        with self._grew:
            self._ended = True
            self._grew.notify_all()


@contextmanager
def serving(*arguments: str, first: str = "", **more: str) -> Iterator[Serving]:
    """A server process that does not outlive the test."""
    server = Serving(*arguments, first=first, **more)
    with server.process:
        try:
            yield server
        finally:
            server.process.kill()
            server.wait()
