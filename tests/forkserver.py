"""Processes that are forked from one in which PyTorch and ONNX are imported, so that none imports them for seconds.

They are processes like any other: each has its own working directory, environment, standard output and standard error,
and gets signals.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import TimeoutExpired
from types import TracebackType
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "__main__",  # pytest, which each process would import otherwise
        "torch._dynamo",  # which PyTorch's optimizers import when the first is made
        "hangtag.cli",
        "hangtag.training.cli",
        "hangtag.export.cli",
        "hangtag.export.foreign.probe",
        "hangtag.export.gate.checks.empty_batch",
    ]
)


class Forked:
    """A function in a forked process, with the part of subprocess.Popen's interface that tests use.

    Leaving the context kills the process if it still runs.
    """

    def __init__(self, work: Callable[..., object], *arguments: Any) -> None:
        """Start ``work(*arguments)``, which can be pickled, in this process's working directory and environment."""
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        self._process = CONTEXT.Process(
            target=_run, args=(self._outputs, Path.cwd(), dict(os.environ), work, arguments)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """The exit status: negative if a signal ended the process. Raises TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            assert timeout is not None
            raise TimeoutExpired("a forked process", timeout)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What the process wrote to standard output and to standard error, once it has ended. Raises TimeoutExpired."""
        self.wait(timeout)
        stdout, stderr = (path.read_text() if path.exists() else "" for path in self._outputs)
        return stdout, stderr

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.join()
        self._folder.cleanup()


def hangtag(arguments: Sequence[str | Path]) -> Forked:
    """Start the command with these arguments, as its console script does."""
    return Forked(_command, list(map(str, arguments)))


def _command(arguments: list[str]) -> None:
    from hangtag.cli import main

    sys.argv[:] = ["hangtag", *arguments]
    main()


def write_output_to(*paths: Path) -> None:
    """Let this process's standard output and standard error, or standard error alone, go into files."""
    for path, stream in zip(reversed(paths), (2, 1), strict=False):
        with path.open("ab") as file:
            os.dup2(file.fileno(), stream)


def _run(
    outputs: Sequence[Path],
    folder: Path,
    variables: dict[str, str],
    work: Callable[..., object],
    arguments: Sequence[Any],
) -> None:
    write_output_to(*outputs)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    work(*arguments)
