"""Run the same closed loop with three load generators: hangtag's, NVIDIA's perf_analyzer, and nghttp2's h2load."""

import csv
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from studies.bench import h2load as h2
from studies.bench.h2load import Load
from studies.bench.loads import loadtest
from studies.page import ROOT

PEERS = ROOT / ".venv-peers/bin"


@dataclass(frozen=True)
class Figures:
    """A tool's report about a closed loop.

    Args:
        throughput: Answered calls a second.
        p50: The median latency in seconds.
        bottleneck: Whether the tool reports itself as a limit; only hangtag's load test can do this.
        cpu: The tool's CPU seconds per call; None if the tool does not separate its warm-up from its calls.
    """

    throughput: float
    p50: float
    bottleneck: bool = False
    cpu: float | None = None


def hangtag(address: str, model: str, concurrency: int, seconds: float) -> Figures:
    """This project's load test. Raises RuntimeError when the run is not VALID."""
    limits = ("--min-query-count", "1", "--max-duration", f"{2 * seconds}s", "--warm-up", "0.5s")
    (run,) = loadtest(address, [model], seconds, "--concurrency", str(concurrency), *limits)["runs"]
    if not run["valid"]:
        raise RuntimeError(f"hangtag's own run is INVALID: {'; '.join(run['problems'])}")
    total = run["total"]
    cpu = total["generator_cpu"] / total["throughput"]
    return Figures(total["throughput"], total["latency"]["p50"], run["limited_by_generator"], cpu)


def perf_analyzer(address: str, model: str, concurrency: int, seconds: float) -> Figures:
    """NVIDIA's perf_analyzer, over time windows. It reports its figures even if they are unstable.

    Raises:
        RuntimeError: perf_analyzer measured nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        command = [str(PEERS / "perf_analyzer"), "-m", model, "-i", "grpc", "-u", address, "-f", str(report), "-b", "1"]
        command += ["--concurrency-range", str(concurrency), "--percentile", "50"]
        command += ["--measurement-interval", str(round(1000 * seconds)), "-s", "1000", "-r", "3"]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.is_file():  # Its exit status is always 0.
            raise RuntimeError(f"perf_analyzer measured nothing: {finished.stdout[-500:]}{finished.stderr[-500:]}")
        with report.open(newline="") as lines:
            (row,) = csv.DictReader(lines)
    return Figures(float(row["Inferences/Second"]), float(row["p50 latency"]) / 1e6)


def h2load(address: str, model: str, concurrency: int, seconds: float) -> Figures:
    """nghttp2's h2load. h2load speaks HTTP/2 but not gRPC, so a call is a POST request with a prepared body.

    Raises:
        click.ClickException: a call was not answered.
    """
    load = Load(10 * concurrency, streams=concurrency)
    while load.calls < seconds / 10 * (rate := h2.run(f"http://{address}", model, load).per_second):
        load = replace(load, calls=10 * load.calls)  # too few to know the rate by, the start of h2load included
    load = replace(load, calls=round(rate * seconds))
    before = getrusage(RUSAGE_CHILDREN)
    outcome = h2.run(f"http://{address}", model, load)
    after = getrusage(RUSAGE_CHILDREN)
    cpu = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / load.calls
    return Figures(outcome.per_second, outcome.percentile_ms(50) / 1e3, cpu=cpu)


TOOLS: Mapping[str, Callable[[str, str, int, float], Figures]] = {
    "hangtag": hangtag, "perf_analyzer": perf_analyzer, "h2load": h2load,
}  # fmt: skip
