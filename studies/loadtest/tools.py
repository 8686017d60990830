"""Runs the same closed loop with three load generators: hangtag's, NVIDIA's perf_analyzer, and nghttp2's h2load."""

import csv
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from types import MappingProxyType

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.measuring.load_test import Extras, measure
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.plan.target import Target
from studies.server.h2load import Load, run

PEERS = Path(__file__).parents[2] / ".venv-peers/bin"


@dataclass(frozen=True)
class Figures:
    """A tool's report about a closed loop.

    Args:
        throughput: Answered calls a second.
        p50: The median latency in seconds.
        bottleneck: Whether the tool reports that it was a limit itself; only hangtag's can.
        cpu: CPU seconds that the tool took for a call; None where it does not report its warm-up apart from its calls.
    """

    throughput: float
    p50: float
    bottleneck: bool = False
    cpu: float | None = None


def hangtag(address: str, model: str, concurrency: int, seconds: float) -> Figures:
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
    (measured,) = measure(scenario, Extras(), Credentials(), threading.Event(), lambda _: None).runs
    if not measured.valid:
        raise RuntimeError(f"hangtag's own run is INVALID: {'; '.join(measured.problems)}")
    total = measured.total
    cpu = total.generator_cpu / measured.throughput
    return Figures(measured.throughput, total.latency.percentile(50), measured.limited_by_generator, cpu)


def perf_analyzer(address: str, model: str, concurrency: int, seconds: float) -> Figures:
    """NVIDIA's perf_analyzer, over time windows. It reports its figures even where it finds them unstable.

    Raises:
        RuntimeError: it failed, or measured nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        window = ("--measurement-interval", str(round(1000 * seconds)), "-s", "1000", "-r", "3", "--percentile", "50")
        loop = ("--concurrency-range", str(concurrency), "-b", "1")
        target = ("-m", model, "-i", "grpc", "-u", address, "-f", str(report))
        output = _run(str(PEERS / "perf_analyzer"), *target, *window, *loop)
        if not report.is_file():  # Its exit status is always 0.
            raise RuntimeError(f"perf_analyzer measured nothing: {output[-500:]}")
        with report.open(newline="") as lines:
            (row,) = csv.DictReader(lines)
    return Figures(float(row["Inferences/Second"]), float(row["p50 latency"]) / 1e6)


def h2load(address: str, model: str, concurrency: int, seconds: float) -> Figures:
    """nghttp2's h2load. It knows HTTP/2 but not gRPC, so a call is a POST request with a prepared body.

    Raises:
        click.ClickException: a call was not answered.
    """
    load = Load(10 * concurrency, streams=concurrency)
    while load.calls < seconds / 10 * (rate := run(f"http://{address}", model, load).per_second):
        load = replace(load, calls=10 * load.calls)  # too few to know the rate by, the start of h2load included
    load = replace(load, calls=round(rate * seconds))
    before = getrusage(RUSAGE_CHILDREN)
    outcome = run(f"http://{address}", model, load)
    after = getrusage(RUSAGE_CHILDREN)
    cpu = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / load.calls
    return Figures(outcome.per_second, outcome.p50_ms / 1e3, cpu=cpu)


TOOLS: Mapping[str, Callable[[str, str, int, float], Figures]] = MappingProxyType(
    {"hangtag": hangtag, "perf_analyzer": perf_analyzer, "h2load": h2load}
)


def _run(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(
            f"{command[0]} ended with {finished.returncode}: {finished.stdout[-500:]}{finished.stderr[-500:]}"
        )
    return finished.stdout + finished.stderr
