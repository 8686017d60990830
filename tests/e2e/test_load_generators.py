"""hangtag's load test, perf_analyzer and h2load measure the same values in the same closed loop.

The server waits 200 ms before each answer, so the overhead of the tools and of a busy machine is small.
"""

import csv
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pytest

from hangtag.protos import inference_pb2 as pb
from studies.bench import h2load
from studies.bench.loads import loadtest
from studies.page import ROOT
from tests.kit.fake_server import FakeServer, running
from tests.kit.waiting import pass_time

ANSWER_SECONDS = 0.2
IN_FLIGHT = 5
SECONDS = 12 * ANSWER_SECONDS
PERF_ANALYZER = ROOT / ".venv-peers/bin/perf_analyzer"
Figures: TypeAlias = tuple[float, float]
"""Answered calls per second, and the median latency in seconds."""


@pytest.fixture
def slow_server() -> Iterator[str]:
    """A server that answers each call after ANSWER_SECONDS, and has the ModelConfig that perf_analyzer requests."""
    servicer = FakeServer()
    config = pb.ModelConfig(
        name="fast",
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=8,
        input=[pb.ModelInput(name="image", data_type=pb.TYPE_UINT8, dims=[28, 28])],
        output=[pb.ModelOutput(name="probabilities", data_type=pb.TYPE_FP32, dims=[10])],
    )
    servicer.configs = {"fast": config}
    servicer.behaviour = lambda _number, _context: pass_time(ANSWER_SECONDS)
    with running(servicer):
        yield servicer.address


def by_perf_analyzer(address: str, report: Path) -> Figures:
    command = [str(PERF_ANALYZER), "-m", "fast", "-i", "grpc", "-u", address, "-f", str(report), "-b", "1"]
    command += ["--concurrency-range", str(IN_FLIGHT), "--percentile", "50"]
    command += ["--measurement-interval", str(round(1000 * SECONDS)), "-s", "1000", "-r", "3"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert report.is_file(), finished.stdout + finished.stderr  # perf_analyzer's exit code is always 0
    with report.open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    return float(row["Inferences/Second"]), float(row["p50 latency"]) / 1e6


def by_h2load(address: str) -> Figures:
    load = h2load.Load(round(IN_FLIGHT * SECONDS / ANSWER_SECONDS), streams=IN_FLIGHT)
    outcome = h2load.run(f"http://{address}", "fast", load)
    return outcome.per_second, outcome.percentile_ms(50) / 1e3


def test_the_tools_agree_within_ten_percent_with_each_other_and_with_the_server(
    slow_server: str, tmp_path: Path
) -> None:
    """The tools can measure at the same time, because the server only waits and does not compute."""
    for program in (PERF_ANALYZER, "h2load"):
        assert shutil.which(program) is not None, f"{program} is missing: run 'make test', which installs it"
    limits = ("--min-query-count", "1", "--max-duration", f"{2 * SECONDS}s", "--warm-up", "0.5s")
    with ThreadPoolExecutor() as threads:
        others = threads.submit(by_perf_analyzer, slow_server, tmp_path / "csv"), threads.submit(by_h2load, slow_server)
        (run,) = loadtest(slow_server, ["fast"], SECONDS, "--concurrency", str(IN_FLIGHT), *limits)["runs"]
    assert run["valid"], run["problems"]
    ours = run["total"]["throughput"], run["total"]["latency"]["p50"]
    assert ours == pytest.approx((IN_FLIGHT / ANSWER_SECONDS, ANSWER_SECONDS), rel=0.1)
    for other in others:
        assert ours == pytest.approx(other.result(), rel=0.1)
