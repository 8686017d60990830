"""The benchmark's command: the hot path, the ordinary path and bare ONNX Runtime take turns, and the medians count."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from hangtag.serving.loadtest.measuring.environment import cpu_model
from studies.server import h2load
from studies.server.goals import bare_rate
from studies.server.process import served
from studies.server.report import tables
from studies.server.scenarios import MANY, OFFLINE_SAMPLES, Bench, Figures

HERE = Path(__file__).parent
PATHS = ("hot", "ordinary")
MODELS = ("lstm", "cnn")
SHARES = tuple(percent / 100 for percent in range(40, 100, 5))
PACKAGES = ("grpcio", "onnxruntime", "numpy", "protobuf")


@click.command()
@click.option("--models", type=click.Path(exists=True, path_type=Path), default=Path("models"), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns of each way.")
@click.option("--seconds", type=click.FloatRange(0.1), default=5.0, show_default=True, help="About, for each load.")
@click.option("--starts", type=click.IntRange(1), default=5, show_default=True, help="Starts of each path's server.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "results.json", show_default=True)
def main(models: Path, rounds: int, seconds: float, starts: int, out: Path) -> None:
    """Measure the server on a machine that does nothing else, and write what came out to a JSON file.

    Needs h2load (Debian: nghttp2-client). The load generator shares the server's processors.
    """
    console = Console(stderr=True)
    cpus = len(os.sched_getaffinity(0))
    results: dict[str, Any] = {
        "command": f"make bench-server ARGS='--rounds {rounds} --seconds {seconds:g} --starts {starts}'",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": cpu_model(), "cpus": cpus, "load_before": round(os.getloadavg()[0], 2)},
        "versions": {"python": platform.python_version(), "h2load": h2load.version()}
        | {package: metadata.version(package) for package in PACKAGES},
        "starts": {path: [] for path in PATHS},
        "rounds": [],
    }
    if results["machine"]["load_before"] > 0.5:
        console.print(f"[yellow]the machine is busy (load {results['machine']['load_before']}): figures will be low")
    for _ in range(starts):
        for path in PATHS:
            with served(models, path) as server:
                results["starts"][path].append({"seconds_to_ready": server.seconds_to_ready, "pss_mb": server.pss_mb()})
    with ExitStack() as stack:
        benches = {path: Bench(stack.enter_context(served(models, path)), seconds) for path in PATHS}
        bare = stack.enter_context(_bare(models, cpus))
        for number in range(rounds):
            console.print(f"round {number + 1} of {rounds}")
            order = PATHS if number % 2 == 0 else PATHS[::-1]
            results["rounds"].append(_round(benches, bare, order, seconds))
    for number, round_ in enumerate(results["rounds"]):
        console.print(f"overload {number + 1} of {rounds}")
        for path in PATHS:
            round_[path]["cnn"]["overload"] = _overload(models, path, seconds)
    out.write_text(json.dumps(results, indent=1) + "\n")
    for table in tables(results):
        Console().print(table)
    click.echo(f"wrote {out}")


def _round(benches: dict[str, Bench], bare: "_Bare", order: tuple[str, ...], seconds: float) -> Figures:
    """Each scenario on each path in turn, beside what bare ONNX Runtime does in the same minute."""
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
        own = figures[path][model]
        own["poisson"] = benches[path].highest_rate(model, bare_rate(figures["bare"][model]), SHARES)
    return figures


def _overload(models: Path, path: str, seconds: float) -> Figures:
    """A server on one half of the processors, its load on the other, so that the load takes nothing from it."""
    cpus = sorted(os.sched_getaffinity(0))
    half = max(1, len(cpus) // 2)
    try:
        os.sched_setaffinity(0, cpus[:half])  # processes that are started inherit it
        with served(models, path) as server:
            os.sched_setaffinity(0, cpus[half:] or cpus)
            return Bench(server, seconds).overload("cnn")
    finally:
        os.sched_setaffinity(0, cpus)


class _Bare:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def measure(self, model: str, batch: int, seconds: float) -> Figures:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{model} {batch} {seconds}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise click.ClickException("bare ONNX Runtime ended; what it said is above")
        figures: Figures = json.loads(answer)
        return figures


@contextmanager
def _bare(models: Path, threads: int) -> Iterator[_Bare]:
    command = [sys.executable, "-m", "studies.server.bare", str(models), str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield _Bare(process)
        assert process.stdin
        process.stdin.close()


if __name__ == "__main__":
    main()
