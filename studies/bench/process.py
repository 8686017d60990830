"""Run a server as a process, and read its statistics, memory and processor time."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

import click

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest import machine_check
from studies.stubs import InferenceStub

_TIMEOUT = 60.0
_ERROR = re.compile(r"\blevel=(?:error|critical)\b|^Traceback ")
_POLL = 0.005
_LAST_LINES = 20


@dataclass(frozen=True)
class Launch:
    """How a server is started.

    Args:
        command: The program and its arguments.
        ready: A regular expression for the line that the server writes on standard error when it is ready. Its first
            group matches the address, and an optional second group matches the address for HTTP.
        environment: Environment variables in addition to those of this process.
        ca: The PEM file of the authority that signed the server's certificate; None without TLS.
        http: host:port of the server's HTTP port; empty if there is none.
    """

    command: tuple[str | Path, ...]
    ready: str
    environment: Mapping[str, str | Path] = field(default_factory=dict)
    ca: Path | None = None
    http: str = ""


def hangtag_serve(models: Path, *options: str) -> Launch:
    """Return the command that starts this repository's `hangtag serve` on free ports."""
    command = (sys.executable, "-m", "hangtag", "serve", "--models", models.resolve(), "--port", "0")
    return Launch(
        (*command, "--metrics-port", "0", *options),
        r"^(?=.*event=ready ).*?address=(\S+)(?:.*? http=(\S+))?",
        {"HANGTAG_SERVE_HTTP_PORT": "0"},  # an option in `options` can override this variable
    )


class Served:
    """A server process. `seconds_to_ready` is the time from its start until it is ready."""

    def __init__(self, launch: Launch) -> None:
        """Start the server and wait until it is ready. Raises click.ClickException if it does not start."""
        started, self._command = time.monotonic(), " ".join(map(str, launch.command))
        environment = os.environ | {name: str(value) for name, value in launch.environment.items()}
        self._log = NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115  close() closes it
        try:
            self._process = subprocess.Popen(
                launch.command,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                env=environment,
                process_group=0,  # so that Ctrl-C cannot stop the server before the study has read its figures
            )
        except OSError as error:
            raise click.ClickException(f"{launch.command[0]} cannot be run ({error}).") from error
        ready = self._wait_until_ready(launch.ready)
        self.seconds_to_ready = time.monotonic() - started
        self.address, self.ca = ready[1], launch.ca
        self.http = launch.http or (ready[2] if ready.re.groups > 1 else "") or ""
        credentials = Credentials() if self.ca is None else Credentials(tls_ca=self.ca)
        self._channel = credentials.channel(self.address)
        self._stub = InferenceStub(self._channel)

    def answered(self, model: str) -> int:
        """Return how many calls to a model have succeeded so far, according to the server's statistics."""
        (statistics,) = self._stub.ModelStatistics(pb.ModelStatisticsRequest(name=model), timeout=_TIMEOUT).model_stats
        return int(statistics.inference_stats.success.count)

    @property
    def url(self) -> str:
        """http://host:port, or https://host:port."""
        return f"{'http' if self.ca is None else 'https'}://{self.address}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def errors(self) -> list[str]:
        """The lines of the server's log that report errors."""
        return [line for line in self._lines().splitlines() if _ERROR.search(line)]

    def cpu_seconds(self) -> float:
        """Return the user and system time of the process and its descendants."""
        return machine_check.cpu_seconds(machine_check.family(self.pid))

    def pss_mb(self) -> float:
        """Return the PSS of the server's processes. PSS counts shared memory only once in this sum."""
        return self._megabytes("smaps_rollup", "Pss")

    def resident_mb(self) -> float:
        """Return the RSS of the server's processes. RSS counts shared memory once for each process."""
        return self._megabytes("status", "VmRSS")

    def forget_peak(self) -> None:
        """Reset `peak_mb`. Source: proc_pid_clear_refs(5)."""
        for pid in machine_check.family(self.pid):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """Return the sum of the highest RSS of each process since `forget_peak`."""
        return self._megabytes("status", "VmHWM")

    def close(self) -> None:
        """Stop the server, and wait for its end.

        Raises:
            click.ClickException: the server did not end and was killed, or its exit code was not 0.
        """
        self._process.terminate()
        try:
            code = self._process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._channel.close()
        log = Path(self._log.name).read_text()
        self._log.close()
        if code:
            end = "\n".join(log.splitlines()[-_LAST_LINES:])
            raise click.ClickException(
                f"{self._command} stopped with exit code {code} instead of 0. The end of its log:\n{end}"
            )

    def kill(self) -> None:
        """Kill the server with SIGKILL, so that only the kernel closes its connections."""
        self._process.kill()
        self._process.wait()
        self._channel.close()
        self._log.close()

    def _lines(self) -> str:
        """Return the complete lines of the server's log so far."""
        log = Path(self._log.name).read_text()
        return log[: log.rfind("\n") + 1]

    def _megabytes(self, file: str, field: str) -> float:
        kilobytes = 0
        for pid in machine_check.family(self.pid):
            text = Path(f"/proc/{pid}/{file}").read_text()
            kilobytes += sum(map(int, re.findall(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)))
        return kilobytes / 1024

    def _wait_until_ready(self, ready: str) -> "re.Match[str]":
        deadline = time.monotonic() + _TIMEOUT
        while True:
            code = self._process.poll()
            if match := re.search(ready, self._lines(), re.MULTILINE):
                return match
            if code is not None or time.monotonic() > deadline:
                self._process.kill()
                self._process.wait()
                when = f"within {_TIMEOUT:g} s" if code is None else f"(exit code {code})"
                raise click.ClickException(f"{self._command} did not start {when}:\n{Path(self._log.name).read_text()}")
            time.sleep(_POLL)


@contextmanager
def served(launch: Launch) -> Iterator[Served]:
    """Run a server until the end of the context."""
    server = Served(launch)
    try:
        yield server
    finally:
        server.close()
