"""Runs the same closed loop with three load generators: hangtag's, NVIDIA's perf_analyzer, and nghttp2's h2load."""

import csv
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.measuring.load_test import Extras, measure
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.samples import load
from hangtag.serving.loadtest.sut.probe import Probe

PEERS = Path(__file__).parents[2] / ".venv-peers/bin"


@dataclass(frozen=True)
class Figures:
    """A tool's report about a closed loop.

    Args:
        throughput: Answered calls a second.
        p50: The median latency in seconds.
        bottleneck: Whether the tool reports that it was the bottleneck itself; only hangtag's can.
    """

    throughput: float
    p50: float
    bottleneck: bool = False


def hangtag(address: str, model: str, concurrency: int, seconds: int) -> Figures:
    """This project's load test. Raises RuntimeError when the run is not VALID."""
    scenario = Scenario(
        targets=(Target(model, model, address),),
        concurrency=(concurrency,),
        min_duration=seconds,
        min_query_count=1,
        max_duration=2 * seconds,
        blocks=1,
        warm_up=0.5,
    )
    (run,) = measure(scenario, Extras(), Credentials(), threading.Event(), lambda _: None).runs
    if not run.valid:
        raise RuntimeError(f"hangtag's own run is INVALID: {'; '.join(run.problems)}")
    return Figures(run.throughput, run.total.latency.percentile(50), run.generator_limited)


def perf_analyzer(address: str, model: str, concurrency: int, seconds: int) -> Figures:
    """NVIDIA's perf_analyzer, over time windows. It reports its figures even where it finds them unstable.

    Raises:
        RuntimeError: it failed, or measured nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        window = ("--measurement-interval", str(1000 * seconds), "-s", "1000", "-r", "3", "--percentile", "50")
        loop = ("--concurrency-range", str(concurrency), "-b", "1")
        target = ("-m", model, "-i", "grpc", "-u", address, "-f", str(report))
        output = _run(str(PEERS / "perf_analyzer"), *target, *window, *loop)
        if not report.is_file():  # Its exit status is always 0.
            raise RuntimeError(f"perf_analyzer measured nothing: {output[-500:]}")
        with report.open(newline="") as lines:
            (row,) = csv.DictReader(lines)
    return Figures(float(row["Inferences/Second"]), float(row["p50 latency"]) / 1e6)


def h2load(address: str, model: str, concurrency: int, seconds: int) -> Figures:
    """nghttp2's h2load. It knows HTTP/2 but not gRPC, so a call is a POST request with a prepared body.

    Raises:
        RuntimeError: it failed, or got an answer with another HTTP status than 200.
    """
    target = Target(model, model, address)
    with Probe(address, Credentials()) as probe:
        library = load(target, probe.describe(target).metadata, 1, seed=0)
    message = library.requests[0]
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
        loop = ("-c", "1", "-m", str(concurrency), "-D", str(seconds), "--warm-up-time", "1")
        _run(
            "h2load",
            *loop,
            *headers,
            "-d",
            str(body),
            f"--log-file={log}",
            f"http://{address}{library.request_pool.method}",
        )
        # A line for each request: start, HTTP status, duration; times are in microseconds.
        _starts, status, durations = np.loadtxt(log, dtype=np.int64, ndmin=2).T[:3]
    if not (status == 200).all():
        raise RuntimeError("h2load got answers with an HTTP status other than 200")
    return Figures(len(durations) / seconds, float(np.median(durations)) / 1e6)


TOOLS: Mapping[str, Callable[[str, str, int, int], Figures]] = MappingProxyType(
    {"hangtag": hangtag, "perf_analyzer": perf_analyzer, "h2load": h2load}
)


def _run(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(
            f"{command[0]} ended with {finished.returncode}: {finished.stdout[-500:]}{finished.stderr[-500:]}"
        )
    return finished.stdout + finished.stderr
