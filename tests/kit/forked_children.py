"""Lets ``hangtag export`` run files in forked processes: tests have no time to start Python for each file."""

import runpy
import subprocess
import sys
import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import IO

import pytest

from hangtag.export import child_process
from tests.kit.forkserver import Forked


class Child(Forked):
    """``python -P -m MODULE ARGUMENT`` with the arguments and the interface of subprocess.Popen that export uses."""

    def __init__(self, command: Sequence[str], *, stdout: IO[str], **_: object) -> None:
        super().__init__(_run_module, command[command.index("-m") + 1 :])
        self._output = stdout

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        if not self.stdout.closed:
            self._output.write(self.stdout.read())
        return code


def _run_module(arguments: list[str]) -> None:
    sys.argv[:] = arguments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # runpy warns that the module was imported before, which is the point
        runpy.run_module(arguments[0], run_name="__main__")


def use(patch: pytest.MonkeyPatch) -> None:
    """Fork the child processes until the patch is undone."""
    forking = SimpleNamespace(Popen=Child, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
    patch.setattr(child_process, "subprocess", forking)


def do_not_use(patch: pytest.MonkeyPatch) -> None:
    """Start them as users do until the patch is undone."""
    patch.setattr(child_process, "subprocess", subprocess)
