"""Runs `hangtag serve` as a process, and reads its statistics, memory and processor time."""

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


class AnsweredCounts(NamedTuple):
    """A model's successful calls, their samples, and the batches that computed them."""

    calls: int
    samples: int
    batches: int


class Served:
    """A server process. `seconds_to_ready` counts from the start of the process."""

    def __init__(self, models: Path, path: str, workers: int = 1) -> None:
        """path: hot or ordinary. Raises click.ClickException when the server does not start, or takes another path."""
        started = time.monotonic()
        command: list[str | Path] = [sys.executable, "-m", "hangtag", "serve", "--models", models, "--port", "0"]
        command += ["--metrics-port", "0"]  # Several servers run at once.
        command += ["--hot-path", "on" if path == "hot" else "off", "--workers", str(workers)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.address = self._wait_until_ready(f"path={path}" if workers == 1 else "")  # A supervisor logs no path.
        self.seconds_to_ready = time.monotonic() - started
        assert self._process.stderr
        self._log = threading.Thread(
            target=self._process.stderr.read
        )  # An unread pipe would fill and block the server.
        self._log.start()
        self._channel = grpc.insecure_channel(self.address)
        self._stub = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def answered(self, model: str) -> AnsweredCounts:
        """The model's statistics so far."""
        request = pb.ModelStatisticsRequest(name=model)
        (statistics,) = self._stub.ModelStatistics(request, timeout=_TIMEOUT).model_stats
        return AnsweredCounts(
            statistics.inference_stats.success.count, statistics.inference_count, statistics.execution_count
        )

    def cpu_seconds(self) -> float:
        """User and system time of the process. Source: proc_pid_stat(5), fields 14 and 15."""
        words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def pss_mb(self) -> float:
        """The memory of the process and its workers (PSS: memory that n processes share counts a n-th for each)."""
        return sum(_pss_mb(pid) for pid in _family(self._process.pid))

    def close(self) -> None:
        self._channel.close()
        self._process.terminate()
        self._process.wait()
        self._log.join()
        assert self._process.stderr
        self._process.stderr.close()

    def _wait_until_ready(self, expected: str) -> str:
        assert self._process.stderr
        log = []
        for line in self._process.stderr:
            log.append(line)
            if "event=ready " in line:
                if expected not in line:
                    self._process.kill()
                    raise click.ClickException(f"the server is ready without {expected}: {line.strip()}")
                address = re.search(r"address=(\S+)", line)
                assert address
                return address[1]
        raise click.ClickException("the server did not start:\n" + "".join(log))


def _family(pid: int) -> list[int]:
    """The ids of a process and all its descendants. Source: proc_pid_task(5), children."""
    children = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    return [pid, *(each for child in children.split() for each in _family(int(child)))]


def _pss_mb(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kilobytes = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert kilobytes
    return int(kilobytes[1]) / 1024


@contextmanager
def served(models: Path, path: str, workers: int = 1) -> Iterator[Served]:
    """Run a server for the time of the context; see Served."""
    server = Served(models, path, workers)
    try:
        yield server
    finally:
        server.close()
