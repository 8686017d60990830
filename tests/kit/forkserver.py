"""Forks processes from a process that has imported the modules they need, because imports take seconds.

A forked process has its own working directory, environment, standard output, standard error and exit code, and receives
signals. Unlike the console script, which tests/e2e starts, a forked process does not import its modules at the start,
and does not finalise Python at the end.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import TimeoutExpired
from typing import IO, Any

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
_ALWAYS = ["__main__", "tests.kit.preloaded"]  # __main__: pytest
CONTEXT.set_forkserver_preload(_ALWAYS)


def preload_training() -> None:
    """Let forked processes start with PyTorch imported. Only tests that need PyTorch call this function."""
    CONTEXT.set_forkserver_preload([*_ALWAYS, "tests.kit.preloaded_training"])


class Forked:
    """Runs a function in a forked process, and has the methods of subprocess.Popen that tests use.

    If the process still runs at the end of the context, it is killed.
    """

    def __init__(
        self, work: Callable[..., object], *arguments: Any, variables: Mapping[str, str] | None = None
    ) -> None:
        """Start ``work(*arguments)``, which must be picklable, in this process's working directory.

        Args:
            work: The function that the process calls.
            arguments: The arguments of ``work``.
            variables: The process's whole environment; None: the environment of this process.
        """
        readers, writers = zip(*(CONTEXT.Pipe(duplex=False) for _ in range(2)), strict=True)
        self._process = CONTEXT.Process(
            target=_run,
            args=(writers, Path.cwd(), dict(os.environ if variables is None else variables), work, arguments),
        )
        self._process.start()
        for writer in writers:
            writer.close()
        self.stdout, self.stderr = map(_text, readers)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; the negative signal number if a signal ended the process; None while the process runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code. Raises TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            assert timeout is not None
            raise TimeoutExpired(f"process {self.pid}", timeout)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end, and return standard output and error, which must fit into pipes. Raises TimeoutExpired."""
        self.wait(timeout)
        return self.stdout.read(), self.stderr.read()

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()
        self.stdout.close()
        self.stderr.close()


class ForkedModule(Forked):
    """Runs a module in a forked process, as ``python -P -m MODULE ARGUMENT…`` would."""

    def __init__(self, command: Sequence[str], **_: object) -> None:
        super().__init__(_run_module, command[command.index("-m") + 1 :])


@contextmanager
def forked_children() -> Iterator[None]:
    """While the context is open, fork the child processes in which the export runs ONNX files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hangtag.export.child_process.CONTEXT", CONTEXT)
        yield


def hangtag(arguments: Sequence[str | Path], *, variables: Mapping[str, str] | None = None, first: str = "") -> Forked:
    """Start the command with these arguments, as the console script does.

    Args:
        arguments: The command's arguments.
        variables: The process's whole environment; None: the environment of this process.
        first: Python statements that the process executes before the command.
    """
    return Forked(_command, list(map(str, arguments)), first, variables=variables)


def _command(arguments: list[str], first: str) -> None:
    from hangtag.cli import main

    exec(first, {})
    sys.argv[:] = ["hangtag", *arguments]
    main()


def _run_module(arguments: list[str]) -> None:
    sys.argv[:] = arguments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # runpy warns that the module is already imported, which is intended
        runpy.run_module(arguments[0], run_name="__main__")


def _text(reader: Connection) -> IO[str]:
    with reader:
        return os.fdopen(os.dup(reader.fileno()), encoding="utf-8")


def _run(
    outputs: Sequence[Connection],
    folder: Path,
    variables: dict[str, str],
    work: Callable[..., object],
    arguments: Sequence[Any],
) -> None:
    for output, standard in zip(outputs, (1, 2), strict=True):
        os.dup2(output.fileno(), standard)
        output.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    tempfile.tempdir = None  # computed again from this process's TMPDIR
    work(*arguments)
