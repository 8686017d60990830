"""Measures the server's hot path, its ordinary path and bare ONNX Runtime in turns. The medians are what counts."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path

import click
from rich.console import Console

from studies import results
from studies.server import h2load
from studies.server.goals import bare_rate
from studies.server.process import served
from studies.server.report import measurement, tables
from studies.server.scenarios import MANY, OFFLINE_SAMPLES, Bench, Figures

RESULTS = Path(__file__).with_name("results.jsonl")
PATHS = ("hot", "ordinary")
MODELS = ("lstm", "cnn")
SHARES = tuple(percent / 100 for percent in range(40, 100, 5))
PACKAGES = ("grpcio", "onnxruntime", "numpy", "protobuf")


@click.command()
@click.option("--models", type=click.Path(exists=True, path_type=Path), default=Path("models"), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Measurements of each path.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1),
    default=5.0,
    show_default=True,
    help="Duration of each load, approximately.",
)
@click.option("--starts", type=click.IntRange(1), default=5, show_default=True, help="Starts of each path's server.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The results file.")
def main(models: Path, rounds: int, seconds: float, starts: int, out: Path) -> None:
    """Measure the server on a machine that does nothing else.

    Needs h2load (Debian: nghttp2-client). The load generator shares the server's processors.
    """
    console = Console(stderr=True)
    cpus = len(os.sched_getaffinity(0))
    command = f"python -m studies server run --rounds {rounds} --seconds {seconds:g} --starts {starts}"
    conditions = results.conditions(command, _versions())
    if conditions["load_before"] > 0.5:
        console.print(f"[yellow]the machine is busy (load {conditions['load_before']:.2f}): figures will be low")
    lines = [conditions, *(_start(models, number) for number in range(1, starts + 1))]
    with ExitStack() as stack:
        benches = {path: Bench(stack.enter_context(served(models, path)), seconds) for path in PATHS}
        bare = stack.enter_context(_bare(models, cpus))
        turns = []
        for number in range(rounds):
            console.print(f"round {number + 1} of {rounds}")
            order = PATHS if number % 2 == 0 else PATHS[::-1]
            turns.append(_round(benches, bare, order, seconds))
    for number, turn in enumerate(turns, start=1):
        console.print(f"overload {number} of {rounds}")
        for path in PATHS:
            turn[path]["cnn"]["overload"] = _overload(models, path, seconds)
        lines.append({"run": f"round {number}"} | turn)
    results.write(out, lines)
    for table in tables(measurement(out)):
        Console().print(table)
    click.echo(f"wrote {out}")


def _versions() -> dict[str, str]:
    own = {"python": platform.python_version(), "h2load": h2load.version()}
    return own | {package: metadata.version(package) for package in PACKAGES}


def _start(models: Path, number: int) -> results.Line:
    """Start a server on each path, and note when it was ready and what memory it takes."""
    line: results.Line = {"run": f"start {number}"}
    for path in PATHS:
        with served(models, path) as server:
            line[path] = {"seconds_to_ready": server.seconds_to_ready, "pss_mb": server.pss_mb()}
    return line


def _round(benches: dict[str, Bench], bare: "_Bare", order: tuple[str, ...], seconds: float) -> Figures:
    """Each scenario on each path in turn, and what bare ONNX Runtime does in the same minute."""
    figures: Figures = {"bare": {}} | {path: {model: {} for model in MODELS} for path in order}
    for model in MODELS:
        figures["bare"][model] = bare.measure(model, OFFLINE_SAMPLES, seconds)
        figures["bare"][model]["single"] = bare.measure(model, 1, seconds / 2)
        for path in order:
            figures[path][model] |= {
                "many": benches[path].closed(model, **MANY),
                "one": benches[path].closed(model),
                "offline": benches[path].closed(model, samples=OFFLINE_SAMPLES, clients=2),
            }
    model = "cnn"
    for path in order:
        figures[path][model]["poisson"] = benches[path].highest_rate(model, bare_rate(figures["bare"][model]), SHARES)
    return figures


def _overload(models: Path, path: str, seconds: float) -> Figures:
    """A server on one half of the processors, and its load on the other half, so that they do not compete."""
    cpus = sorted(os.sched_getaffinity(0))
    half = max(1, len(cpus) // 2)
    try:
        os.sched_setaffinity(0, cpus[:half])  # The server inherits it.
        with served(models, path) as server:
            os.sched_setaffinity(0, cpus[half:] or cpus)
            return Bench(server, seconds).overload("cnn")
    finally:
        os.sched_setaffinity(0, cpus)


class _Bare:
    """The process of bare.py, which measures one load on request."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def measure(self, model: str, batch: int, seconds: float) -> Figures:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{model} {batch} {seconds}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise click.ClickException("the process with bare ONNX Runtime ended; its output is above")
        figures: Figures = json.loads(answer)
        return figures


@contextmanager
def _bare(models: Path, threads: int) -> Iterator[_Bare]:
    command = [sys.executable, "-m", "studies.server.bare", str(models), str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield _Bare(process)
        assert process.stdin
        process.stdin.close()
