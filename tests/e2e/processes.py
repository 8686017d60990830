"""The commands as a person runs them: in processes of their own."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
HANGTAG = Path(sys.executable).with_name("hangtag")
START_SECONDS = 60


def hangtag(*arguments: str | Path, exit_codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; AssertionError with all that it said when it ends otherwise than expected."""
    command = [str(HANGTAG), *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode in exit_codes, f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended


class ServerProcess:
    """A ``hangtag serve`` that said that it is ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._log: list[str] = []
        self._grew = threading.Condition()
        self._told = threading.Event()  # ready, or never going to be
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._told.wait(START_SECONDS)
        ready = re.search(r"^address=(\S+) .*event=ready ", self.log, re.MULTILINE)
        assert ready, f"the server was not ready within {START_SECONDS} s; it said:\n{self.log}"
        self.address = ready[1]

    @property
    def log(self) -> str:
        return "".join(self._log)

    def wait_for(self, text: str) -> str:
        """The log's line with this text."""
        with self._grew:
            assert self._grew.wait_for(lambda: text in self.log, START_SECONDS), self.log
        return next(line for line in self._log if text in line)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it, wait for its end, and return its exit code."""
        self._process.send_signal(number)
        code = self._process.wait(30)
        self._reader.join(30)
        return code

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._grew:
                self._log.append(line)
                self._grew.notify_all()
            if "event=ready " in line:
                self._told.set()
        self._told.set()


@contextmanager
def serving(models: Path, *options: str) -> Iterator[ServerProcess]:
    """A server on a free port. It is gone afterwards, whatever happens."""
    command = [str(HANGTAG), "serve", "--models", str(models), "--port", "0", "--metrics-port", "0", *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield ServerProcess(process)
        finally:
            process.kill()
