"""A running ``hangtag serve``: when it was ready, what became of its calls, what it takes of the machine."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc

_TIMEOUT = 60.0


class Answered(NamedTuple):
    """By one model: calls, samples, and the batches they were computed in."""

    calls: int
    samples: int
    batches: int


class Served:
    """A server process. ``seconds_to_ready`` counts from the start of the process."""

    def __init__(self, models: Path, path: str, workers: int = 1) -> None:
        """path: ``hot`` or ``ordinary``. Raises click.ClickException when it does not get ready that way."""
        started = time.monotonic()
        command: list[str | Path] = [sys.executable, "-m", "hangtag", "serve", "--models", models, "--port", "0"]
        command += ["--metrics-port", "0"]  # several servers run at once
        command += ["--hot-path", "on" if path == "hot" else "off", "--workers", str(workers)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.address = self._wait_until_ready(f"path={path}" if workers == 1 else "")  # a supervisor has none
        self.seconds_to_ready = time.monotonic() - started
        assert self._process.stderr
        self._log = threading.Thread(target=self._process.stderr.read)  # or it would fill the pipe
        self._log.start()
        self._channel = grpc.insecure_channel(self.address)
        self._stub = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def answered(self, model: str) -> Answered:
        """What was answered with success so far."""
        request = pb.ModelStatisticsRequest(name=model)
        (told,) = self._stub.ModelStatistics(request, timeout=_TIMEOUT).model_stats
        return Answered(told.inference_stats.success.count, told.inference_count, told.execution_count)

    def cpu_seconds(self) -> float:
        """User and system time of the process. Source: proc_pid_stat(5), fields 14 and 15."""
        words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def pss_mb(self) -> float:
        """Memory: its own and its workers', and their share of what they have in common with others."""
        return sum(_pss_mb(pid) for pid in _family(self._process.pid))

    def close(self) -> None:
        self._channel.close()
        self._process.terminate()
        self._process.wait()
        self._log.join()
        assert self._process.stderr
        self._process.stderr.close()

    def _wait_until_ready(self, told: str) -> str:
        assert self._process.stderr
        log = []
        for line in self._process.stderr:
            log.append(line)
            if "event=ready " in line:
                if told not in line:
                    self._process.kill()
                    raise click.ClickException(f"the server is ready without {told}: {line.strip()}")
                address = re.search(r"address=(\S+)", line)
                assert address
                return address[1]
        raise click.ClickException("the server did not start:\n" + "".join(log))


def _family(pid: int) -> list[int]:
    """A process and all that it started. Source: proc_pid_task(5), children."""
    children = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    return [pid, *(each for child in children.split() for each in _family(int(child)))]


def _pss_mb(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found
    return int(found[1]) / 1024


@contextmanager
def served(models: Path, path: str, workers: int = 1) -> Iterator[Served]:
    server = Served(models, path, workers)
    try:
        yield server
    finally:
        server.close()
