"""Processes that speak lines of JSON: a worker answers each line, a reporter writes them until its input ends.

with worker([sys.executable, "-m", "studies.some.worker"]) as process:   # which calls answer(FUNCTION)
    process.ask("cnn", 64)                                              # FUNCTION("cnn", 64), in the process
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

from studies.page import ROOT

_LAST_LINES = 20


class Worker:
    """A running worker. Error messages include the worker's standard error."""

    def __init__(self, process: "subprocess.Popen[str]", log: IO[str]) -> None:
        self._process, self._log = process, log

    def ask(self, *arguments: Any) -> Any:
        """Return the answer of the worker's function to these arguments.

        Raises:
            click.ClickException: The worker ended. The message has the end of its log.
        """
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(arguments) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            return json.loads(answer)
        status = self._process.wait()
        self._log.seek(0)
        last = "\n".join(self._log.read().strip().splitlines()[-_LAST_LINES:])
        name = " ".join(map(str, self._process.args))  # type: ignore[arg-type]
        raise click.ClickException(f"the process ended with {status}: {name}\n{last or 'It wrote nothing.'}")


class Reporter:
    """A running process that writes lines of JSON until its standard input ends.

    Ctrl-C reaches only the program that started the process. That program then ends the process.
    """

    def __init__(self, command: Sequence[str | Path], take: Callable[[Any], None], *, says_ready: bool = False) -> None:
        """Start the process.

        Args:
            command: The program and its arguments.
            take: Called with the content of each line, in a thread.
            says_ready: Whether the process writes a line when it is ready. This line is awaited, and not passed to
                ``take``.
        """
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0, cwd=ROOT
        )
        self._take = take
        assert self._process.stdout
        if says_ready:
            self._process.stdout.readline()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End the process, and wait for the end. A second call does nothing."""
        assert self._process.stdin
        self._process.stdin.close()
        self._reader.join()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            for line in lines:
                self._take(json.loads(line))


@contextmanager
def worker(command: Sequence[str | Path], **variables: str) -> Iterator[Worker]:
    """Start a worker, and kill it at the end of the context.

    Args:
        command: The program and its arguments.
        variables: Environment variables of the worker, in addition to this process's variables.

    Raises:
        click.ClickException: The worker cannot be started.
    """
    with tempfile.TemporaryFile("w+") as log:
        try:
            process = subprocess.Popen(
                command,
                env=os.environ | variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        except OSError as error:
            raise click.ClickException(f"{command[0]} cannot be started ({error.strerror}).") from error
        with process:
            try:
                yield Worker(process, log)
            finally:
                process.kill()


def answer(function: Callable[..., Any]) -> None:
    """Answer requests with a function until the input ends. Text that libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            answers.write(json.dumps(function(*json.loads(line))) + "\n")
            answers.flush()
