"""A worker process that trains a burst of steps on request and is idle otherwise."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click


class Worker:
    """Sends requests to a worker's stdin and reads its stdout. The worker's stderr becomes part of error messages."""

    def __init__(self, process: "subprocess.Popen[str]", log: IO[str]) -> None:
        self._process, self._log = process, log

    def step_ms(self, model: str, steps: int) -> float:
        """The milliseconds of a step.

        Raises:
            click.ClickException: the worker ended, with the end of its log, or its answer is no number.
        """
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(f"{model} {steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        answer = self._process.stdout.readline()
        if not answer:
            raise self._ended()
        try:
            return float(answer)
        except ValueError as error:
            raise click.ClickException(
                f"{self._name} answered {answer.strip()!r} where milliseconds were expected."
            ) from error

    @property
    def _name(self) -> str:
        return " ".join(map(str, self._process.args))  # type: ignore[arg-type]

    def _ended(self) -> click.ClickException:
        status = self._process.wait()
        self._log.seek(0)
        last = self._log.read().strip().splitlines()[-20:]
        return click.ClickException(
            f"{self._name} ended with status {status}. Its last output:\n" + "\n".join(last or ["nothing"])
        )


@contextmanager
def worker(command: Sequence[str | Path]) -> Iterator[Worker]:
    """Start a worker, and kill it at the end of the context. Raises click.ClickException where it cannot be started."""
    with tempfile.TemporaryFile("w+") as log:
        try:
            # TensorFlow's informational messages would hide the cause of an error at the end of the log.
            environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        except OSError as error:
            raise click.ClickException(f"{command[0]} cannot be started ({error.strerror}).") from error
        with process:
            try:
                yield Worker(process, log)
            finally:
                process.kill()
