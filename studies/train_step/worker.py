"""A process that trains a burst of steps when told to, and is idle otherwise."""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click


class Worker:
    """Told over its stdin, answers on its stdout; its stderr is kept for when it dies."""

    def __init__(self, process: "subprocess.Popen[str]", said: IO[str]) -> None:
        self._process, self._said = process, said

    def step_ms(self, model: str, steps: int) -> float:
        """The milliseconds of a step. Raises ClickException, with what it said, for a worker that ended or babbles."""
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
        self._said.seek(0)
        last = self._said.read().strip().splitlines()[-20:]
        return click.ClickException(
            f"{self._name} ended with status {status}. The last that it said:\n" + "\n".join(last or ["nothing"])
        )


@contextmanager
def worker(command: Sequence[str | Path]) -> Iterator[Worker]:
    """A worker that lives in this context. Raises ClickException where it cannot be started."""
    with tempfile.TemporaryFile("w+") as said:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True)
        except OSError as error:
            raise click.ClickException(f"{command[0]} cannot be started ({error.strerror}).") from error
        with process:
            try:
                yield Worker(process, said)
            finally:
                process.kill()
