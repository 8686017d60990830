"""Runs the command ``hangtag`` in this process or in another one, and follows the log of ``hangtag serve``.

The other process is forked from a process that has imported the command, because the imports take seconds. With
``script``, it starts as the console script instead, as it does for users.
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
"""The time limit for a command that ends by itself. On a busy machine, training or exporting takes long."""


def environment(**more: str) -> dict[str, str]:
    """This process's environment, without the variables that configure the command, and with the variables ``more``."""
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
    """Run the command in this process until it ends. Exceptions that the command does not handle propagate.

    Args:
        arguments: The command's arguments.
        exit_code: The expected exit code: 2 for a usage error, 1 for another error. None allows any exit code.
        variables: Variables that are added to the environment.
        columns: The width of the console.
        typed: The contents of standard input.
        command: The command; by default ``hangtag``.
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
    """Run the command in this process, check that it fails, and return its one-line error message.

    Args:
        arguments: The command's arguments.
        exit_code: The expected exit code, as for ``invoke``.
        unchanged: A folder that the command must not change. If it is given, standard output must also be empty.
        alone: Whether the command must print only the error, without progress or warnings.
        variables: Variables that are added to the environment.
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
    """Map the path of each file under the folder to the file's digest, and the path of each folder to "folder"."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def hangtag(
    *arguments: object, script: bool = False, first: str = "", exit_codes: Container[int] | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in another process to its end. The output must fit into a pipe, unless ``script`` is set.

    Args:
        arguments: The command's arguments.
        script: Start the console script instead of forking.
        first: Python statements that a forked process executes before the command.
        exit_codes: The allowed exit codes; None allows any.
        more: Variables that are added to the environment.
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
    """Run the command to its end in a new process that cannot import these modules."""
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
    """Python statements that change the defaults of `Limits`, for the argument ``first`` of ``Serving``."""
    return f"from hangtag.serving.server.config.limits import Limits; Limits.__init__.__kwdefaults__.update({limits!r})"


def last_line(text: str) -> str:
    """The last line of a command's output, which must not contain a traceback."""
    assert "Traceback" not in text
    return text.splitlines()[-1]


class Serving:
    """A running ``hangtag serve``, whose log a thread reads."""

    def __init__(self, *arguments: object, first: str = "", script: bool = False, **more: str) -> None:
        """Start the command.

        Args:
            arguments: The arguments of ``hangtag serve``.
            first: Python statements that the forked process executes before the command.
            script: Start the console script instead of forking.
            more: Variables that are added to the environment.
        """
        command = ["serve", *map(str, arguments)]
        if script:
            variables = environment(**more)
            process = subprocess.Popen([SCRIPT, *command], env=variables, stderr=subprocess.PIPE, text=True)
            self.process = cast(forkserver.Forked, process)  # Forked has the methods of Popen
        else:
            self.process = forkserver.hangtag(command, variables=environment(**more), first=first)
        self.log: list[str] = []
        self._grew = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, event: str) -> str:
        """Wait for this event's line in the log, and return it. Raises AssertionError if the process ends first."""
        return self.wait_for_count(event, 1)[0]

    def wait_for_count(self, event: str, count: int) -> list[str]:
        """Wait until the log has this many lines about this event, and return these lines."""

        def lines() -> list[str]:
            return [line for line in self.log if f"event={event} " in f"{line.strip()} "]

        with self._grew:
            assert self._grew.wait_for(lambda: len(lines()) >= count or self._ended, TIMEOUT), self.log
            assert len(lines()) >= count, "".join(self.log)
            return lines()

    @property
    def address(self) -> str:
        """HOST:PORT for gRPC, once the server is ready."""
        return self._value("ready", "address")

    @property
    def http_address(self) -> str:
        """HOST:PORT for HTTP, once the server is ready."""
        return self._value("ready", "http")

    @property
    def metrics_url(self) -> str:
        return self._value("metrics", "url")

    def metrics(self) -> str:
        """The server's metrics, in Prometheus' text format."""
        return rest.metrics(urllib.parse.urlsplit(self.metrics_url).netloc)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the process to end, so that ``log`` is complete, and return the exit code."""
        code = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return code

    def _value(self, event: str, key: str) -> str:
        """The value of a key in a line of the log."""
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
    """A server process that ends with the test. The arguments are those of ``Serving``."""
    server = Serving(*arguments, first=first, script=script, **more)
    with server.process:
        try:
            yield server
        finally:
            server.process.kill()
            server.wait()
