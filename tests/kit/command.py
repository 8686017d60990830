"""Runs the command ``hangtag`` in this process or in one of its own, and follows the log of ``hangtag serve``.

A process of its own is forked from one that has imported the command, which saves the seconds that the imports take;
with ``script`` it is the console script that users start.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import click
from click.testing import CliRunner, Result

from hangtag.cli import main
from tests.kit import forkserver, rest
from tests.kit.waiting import TIMEOUT

ROOT = Path(__file__).parents[2]
SCRIPT = Path(sys.executable).with_name("hangtag")
COMMAND_SECONDS = 200.0
"""The most time for a command that ends by itself; one that trains or exports takes long on a busy machine."""


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


def invoke(
    *arguments: object,
    exit_code: int | None = 0,
    variables: Mapping[str, str] | None = None,
    columns: int = 200,
    typed: str | bytes | None = None,
    command: click.Command = main,
) -> Result:
    """Run the command in this process to its end; an exception that it does not handle is raised.

    Args:
        arguments: The command's.
        exit_code: The one that it must have: 2 is an error of usage, 1 any other; None: any.
        variables: Added to the environment.
        columns: The width of the console.
        typed: What standard input holds.
        command: Another one than ``hangtag``.
    """
    environment = {"COLUMNS": str(columns), **(variables or {})}
    result = CliRunner().invoke(command, list(map(str, arguments)), input=typed, env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert exit_code is None or result.exit_code == exit_code, result.output
    return result


def refusal(
    *arguments: object,
    exit_code: int = 1,
    unchanged: Path | None = None,
    alone: bool = False,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Run the command in this process, which must end with an error; return that, one line of text.

    Args:
        arguments: The command's.
        exit_code: As for ``invoke``.
        unchanged: A folder that must be left as it was, with nothing on standard output.
        alone: Nothing but the error is printed: no progress, no warning.
        variables: Added to the environment.
    """
    before = contents(unchanged) if unchanged else {}
    result = invoke(*arguments, exit_code=exit_code, variables=variables, columns=500)
    *others, last = result.stderr.splitlines()
    assert last.startswith("Error: "), result.output
    assert not any(line.startswith(("Error: ", "Traceback")) for line in others), result.stderr
    assert not (alone and others), result.stderr
    assert result.stdout == "" or not (alone or unchanged), result.stdout
    assert not unchanged or contents(unchanged) == before
    return last.removeprefix("Error: ")


def contents(folder: Path) -> dict[str, str]:
    """Every path under the folder: a file's digest, or "folder"."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def hangtag(
    *arguments: object, script: bool = False, first: str = "", exit_codes: Container[int] | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own to its end. What a forked one prints must fit into a pipe.

    Args:
        arguments: The command's.
        script: Start the console script, and do not fork.
        first: Python statements that a forked process executes before the command.
        exit_codes: Those that are right; any where it is None.
        more: Added to the environment.
    """
    texts = list(map(str, arguments))
    if script:
        done = subprocess.run(
            [SCRIPT, *texts], env=environment(**more), capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
    else:
        with forkserver.hangtag(texts, variables=environment(**more), first=first) as process:
            stdout, stderr = process.communicate(COMMAND_SECONDS)
            done = subprocess.CompletedProcess(texts, process.wait(), stdout, stderr)
    assert exit_codes is None or done.returncode in exit_codes, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def without(modules: Sequence[str], *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end in a new process, in which these modules cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({list(modules)}))\n"
        f"from hangtag.cli import main; main({list(map(str, arguments))})"
    )
    return python(code, **more)


def python(code: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python statements in a new process to their end."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=COMMAND_SECONDS)


def with_limits(**limits: float) -> str:
    """Python statements that change the defaults of `Limits` in a process, for the ``first`` of `Serving`."""
    return f"from hangtag.serving.server.config.limits import Limits; Limits.__init__.__kwdefaults__.update({limits!r})"


def last_line(text: str) -> str:
    """The last line of what a command wrote, which has no traceback."""
    assert "Traceback" not in text
    return text.splitlines()[-1]


class Serving:
    """A running ``hangtag serve``; a thread reads its log."""

    def __init__(self, *arguments: object, first: str = "", script: bool = False, **more: str) -> None:
        """Start the command.

        Args:
            arguments: Those of ``hangtag serve``.
            first: Python statements that the forked process executes before the command.
            script: Start the console script, and do not fork.
            more: Added to the environment.
        """
        command = ["serve", *map(str, arguments)]
        if script:
            variables = environment(**more)
            process = subprocess.Popen([SCRIPT, *command], env=variables, stderr=subprocess.PIPE, text=True)
            self.process = cast(forkserver.Forked, process)  # which has the interface of Popen
        else:
            self.process = forkserver.hangtag(command, variables=environment(**more), first=first)
        self.log: list[str] = []
        self._grew = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, event: str) -> str:
        """Wait for the log's line of this event. Raises AssertionError if the process ends without it."""
        return self.wait_for_count(event, 1)[0]

    def wait_for_count(self, event: str, count: int) -> list[str]:
        """Wait until the log has this many lines of this event; returns all of them."""

        def lines() -> list[str]:
            return [line for line in self.log if f"event={event} " in f"{line.strip()} "]

        with self._grew:
            assert self._grew.wait_for(lambda: len(lines()) >= count or self._ended, TIMEOUT), self.log
            assert len(lines()) >= count, "".join(self.log)
            return lines()

    @property
    def address(self) -> str:
        """HOST:PORT of gRPC, once the server is ready."""
        return self._value("ready", "address")

    @property
    def http_address(self) -> str:
        """HOST:PORT of HTTP, once the server is ready."""
        return self._value("ready", "http")

    @property
    def metrics_url(self) -> str:
        """Where the server's metrics are."""
        return self._value("metrics", "url")

    def metrics(self) -> str:
        """The server's metrics, in Prometheus' text format."""
        return rest.metrics(urllib.parse.urlsplit(self.metrics_url).netloc)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the process to end; returns its exit code. ``log`` is complete then."""
        code = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return code

    def _value(self, event: str, key: str) -> str:
        """What a line of the log says of a key."""
        match = re.search(rf"\b{key}=(\S+)", self.wait_for(event))
        assert match
        return match[1]

    def _read(self) -> None:
        for line in self.process.stderr:
            with self._grew:
                self.log.append(line)
                self._grew.notify_all()
        with self._grew:
            self._ended = True
            self._grew.notify_all()


@contextmanager
def serving(*arguments: object, first: str = "", script: bool = False, **more: str) -> Iterator[Serving]:
    """A server process that does not outlive the test; ``Serving`` has the arguments."""
    server = Serving(*arguments, first=first, script=script, **more)
    with server.process:
        try:
            yield server
        finally:
            server.process.kill()
            server.wait()
