"""Runs a server as a process, and reads its statistics, memory and processor time."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import click

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.machine import processes
from studies.stubs import InferenceStub

_TIMEOUT = 60.0
_ERROR = re.compile(r"\blevel=(?:error|critical)\b|^Traceback ")
_KEPT_ERRORS = 100


@dataclass(frozen=True)
class Launch:
    """How a server is started.

    Args:
        command: The program and its arguments.
        ready: A regular expression for the line on standard error that says that the server answers; its group is the
            address, and a second one is where it speaks HTTP.
        environment: Variables beside this process's own.
        folder: Its working directory; None for this process's.
        ca: Who signed its certificate (PEM); None: it has no TLS.
        http: host:port where it speaks HTTP; empty where it does not.
        answers_loadtest: Whether it has what `hangtag loadtest` asks a server before it calls it.
    """

    command: tuple[str | Path, ...]
    ready: str
    environment: Mapping[str, str | Path] = field(default_factory=dict)
    folder: Path | None = None
    ca: Path | None = None
    http: str = ""
    answers_loadtest: bool = True


def hangtag_serve(models: Path, *options: str) -> Launch:
    """`hangtag serve` of this repository on free ports, so that several run at once."""
    command = (sys.executable, "-m", "hangtag", "serve", "--models", models.resolve(), "--port", "0")
    return Launch(
        (*command, "--metrics-port", "0", *options),
        r"^(?=.*event=ready ).*?address=(\S+)(?:.*? http=(\S+))?",
        {"HANGTAG_SERVE_HTTP_PORT": "0"},  # not an option, which earlier versions do not have
    )


class AnsweredCounts(NamedTuple):
    """A model's successful calls, their samples, and the batches that computed them."""

    calls: int
    samples: int
    batches: int


class Served:
    """A server process. `seconds_to_ready` counts from the start of the process."""

    def __init__(self, launch: Launch) -> None:
        """Start it and wait until it is ready. Raises click.ClickException when it does not start."""
        started, self._program = time.monotonic(), Path(launch.command[0]).name
        environment = os.environ | {name: str(value) for name, value in launch.environment.items()}
        try:
            self._process = subprocess.Popen(
                launch.command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                cwd=launch.folder,
                process_group=0,  # Ctrl-C stops the study, which stops the server when it has read what it needs.
            )
        except OSError as error:
            raise click.ClickException(f"{launch.command[0]} cannot be run ({error}).") from error
        assert self._process.stderr
        self._stderr = self._process.stderr
        self.address, http = self._wait_until_ready(launch.ready)
        self.ca = launch.ca
        self.http = launch.http or http or ""
        self.seconds_to_ready = time.monotonic() - started
        self.errors: list[str] = []
        """The lines of its log that report errors, as far as they have come."""
        # An unread pipe would fill and block the server.
        self._log = threading.Thread(target=self._read_log)
        self._log.start()
        credentials = Credentials() if self.ca is None else Credentials(tls_ca=self.ca)
        self._channel = credentials.channel(self.address)
        self._stub = InferenceStub(self._channel)

    def answered(self, model: str) -> AnsweredCounts:
        """The model's statistics so far."""
        request = pb.ModelStatisticsRequest(name=model)
        (statistics,) = self._stub.ModelStatistics(request, timeout=_TIMEOUT).model_stats
        return AnsweredCounts(
            statistics.inference_stats.success.count, statistics.inference_count, statistics.execution_count
        )

    @property
    def url(self) -> str:
        """http://host:port, or https://host:port."""
        return f"{'http' if self.ca is None else 'https'}://{self.address}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_seconds(self) -> float:
        """User and system time of the process and its descendants."""
        return processes.cpu_seconds(processes.family(self._process.pid))

    def pss_mb(self) -> float:
        """The memory of the process and its workers (PSS: memory that n processes share counts a n-th for each)."""
        return sum(_kilobytes(pid, "smaps_rollup", "Pss") for pid in processes.family(self._process.pid)) / 1024

    def resident_mb(self) -> float:
        """The memory of the process and its workers, with what they share counted for each (RSS)."""
        return sum(_kilobytes(pid, "status", "VmRSS") for pid in processes.family(self._process.pid)) / 1024

    def forget_peak(self) -> None:
        """Let `peak_mb` start anew. Source: proc_pid_clear_refs(5)."""
        for pid in processes.family(self._process.pid):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """The highest RSS of each process since `forget_peak`, as a sum."""
        return sum(_kilobytes(pid, "status", "VmHWM") for pid in processes.family(self._process.pid)) / 1024

    def close(self) -> None:
        """Ask the server to stop, and wait for its end.

        Raises:
            click.ClickException: it did not end and was killed, or ended with another exit code than 0.
        """
        self._process.terminate()
        try:
            code = self._process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._release()
        if code:
            raise click.ClickException(f"{self._program} did not stop as it should: exit code {code}")

    def kill(self) -> None:
        """End the server by SIGKILL, so that the kernel closes its connections and nothing else is done."""
        self._process.kill()
        self._process.wait()
        self._release()

    def _release(self) -> None:
        self._channel.close()
        self._log.join()
        self._stderr.close()

    def _read_log(self) -> None:
        for line in self._stderr:
            if _ERROR.search(line) and len(self.errors) < _KEPT_ERRORS:
                self.errors.append(line.rstrip())

    def _wait_until_ready(self, ready: str) -> tuple[str, str | None]:
        log = []
        too_late = threading.Timer(_TIMEOUT, self._process.kill)
        too_late.start()
        try:
            for line in self._stderr:
                log.append(line)
                if address := re.search(ready, line):
                    return address[1], address[2] if address.re.groups > 1 else None
        finally:
            too_late.cancel()
        code = self._process.wait()
        self._stderr.close()
        when = f"within {_TIMEOUT:g} s" if code == -signal.SIGKILL else f"(exit code {code})"
        raise click.ClickException(f"{self._program} did not start {when}:\n{''.join(log)}")


def _kilobytes(pid: int, file: str, field: str) -> int:
    line = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    assert line
    return int(line[1])


@contextmanager
def served(launch: Launch) -> Iterator[Served]:
    """Run a server for the time of the context; see Served."""
    server = Served(launch)
    try:
        yield server
    finally:
        server.close()
