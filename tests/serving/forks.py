"""Runs ``hangtag`` in processes forked from one that has imported what serves and calls: each saves half a second.

They are processes like any other, with an environment, pipes and an exit code of their own, and signals end them. The
servers of tests/e2e are the console script itself, imports included.
"""

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
_LONGEST_REQUEST = 1 << 20
_FILES = 3
"""Standard output, standard error, and the pipe for the id and the exit code."""


class Forked:
    """A process that runs ``hangtag``, with the part of subprocess.Popen's interface that the tests use."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], first: str = "") -> None:
        """
        Args:
            arguments: The command's.
            environment: All variables.
            first: Python statements that the process executes before the command.
        """
        ends = [os.pipe() for _ in range(_FILES)]
        request = json.dumps([list(arguments), dict(environment), first, str(Path.cwd())]).encode()
        socket.send_fds(_server(), [request], [write for _, write in ends])
        for _, write in ends:
            os.close(write)
        self.stdout: IO[str] = os.fdopen(ends[0][0], encoding="utf-8")
        self.stderr: IO[str] = os.fdopen(ends[1][0], encoding="utf-8")
        self._reports: IO[str] = os.fdopen(ends[2][0], encoding="utf-8")
        self.pid = int(self._reports.readline())
        self.returncode: int | None = None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit code; None while the process runs."""
        return self._ended(0)

    def wait(self, timeout: float) -> int:
        """Wait for the exit code, minus the signal's number if a signal ended it. Raises subprocess.TimeoutExpired."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def _ended(self, timeout: float) -> int | None:
        if self.returncode is None and _readable(self._reports, timeout):
            self.returncode = int(self._reports.readline())
            self._reports.close()
        return self.returncode


def _readable(file: IO[str], timeout: float) -> bool:
    return bool(select.select([file], [], [], timeout)[0])


@cache
def _server() -> socket.socket:
    """The connection to the process that forks, which ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        program = f"from tests.serving.forks import serve; serve({theirs.fileno()})"
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def serve(connection: int) -> None:
    """Fork a process for each request until the test process has ended."""
    from hangtag.serving.server.process import environment

    environment.prepare()
    import hangtag.cli
    import hangtag.serving.client.classify
    import hangtag.serving.client.health
    import hangtag.serving.client.top
    import hangtag.serving.loadtest.cli.command
    import hangtag.serving.server.cli
    import hangtag.serving.server.process.main
    import hangtag.serving.server.transport.http.server
    import hangtag.serving.server.transport.native.server  # noqa: F401

    gc.freeze()  # so that no collection touches, and thereby copies, the memory that the processes share
    requests = socket.socket(fileno=connection)
    # The kernel removes each child that has ended, so that none stays a zombie.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, files, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, _FILES)
        if not data:
            return
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _fork_and_wait(json.loads(data), *files)
            return
        for file in files:
            os.close(file)


def _fork_and_wait(request: Sequence[Any], stdout: int, stderr: int, reports: int) -> None:
    """Become the parent of the command's process, report its id and later its exit code; that process returns."""
    pid = os.fork()
    if pid:
        os.close(stdout)
        os.close(stderr)
        os.write(reports, f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(reports, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    os.close(reports)
    for file, standard in ((stdout, 1), (stderr, 2)):
        os.dup2(file, standard)
        os.close(file)
    arguments, variables, first, folder = request
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    exec(first, {})
    sys.argv[:] = ["hangtag", *arguments]
    from hangtag.cli import main

    main()
