"""Compare a server with many models, of which few are called often, with a server that has only those few."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from hangtag import Client
from hangtag.serving.model_repository import numbered_versions
from studies import options, results
from studies.bench.process import Served, hangtag_serve, served
from studies.page import table

MODEL = "cnn"
HOT = 20
CALLERS = 2
_IMAGE = {"image": np.zeros((1, 28, 28), np.uint8)}


@click.command()
@options.MODELS
@click.option("--count", type=click.IntRange(HOT + 1), default=1000, show_default=True, help="The number of models.")
@click.option(
    "--limit", type=click.IntRange(1), default=1024, show_default=True, help="The server's value of --max-loaded-mib."
)
@click.option(
    "--cold-rate",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    help="Calls per second to models that are not loaded.",
)
@options.ROUNDS
@click.option(
    "--seconds",
    type=click.FloatRange(1),
    default=10.0,
    show_default=True,
    help="The duration of each measurement in seconds.",
)
def main(models: Path, count: int, limit: int, cold_rate: float, rounds: int, seconds: float) -> None:
    """Call 20 of a thousand models often, and the other models rarely, and print the README's table.

    Each model is a link to the same file, which the server loads separately for each model. A second server has only
    the 20 models, and gets only the calls to these models.
    """
    file = numbered_versions(models / MODEL)[0].path
    with TemporaryDirectory(dir=models.parent) as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        for repository, names in ((few, HOT), (many, count)):
            for number in range(names):
                (repository / f"m{number:04}" / "1").mkdir(parents=True)
                os.link(file, repository / f"m{number:04}" / "1" / "model.onnx")
        on_demand = ("--max-loaded-mib", str(limit))
        with _pss(few, *on_demand) as small, _pss(many, *on_demand) as large:
            cold_kib = (large - small) * 1000 / (count - HOT)
        hot_p99: dict[str, list[float]] = {"alone": [], "many": []}
        cold: list[float] = []
        with served(hangtag_serve(few)) as alone, served(hangtag_serve(many, *on_demand)) as fleet:
            servers = {"alone": alone, "many": fleet}
            for number in range(HOT, count):  # load models until the limit of memory is reached
                if number * file.stat().st_size > limit << 20:
                    break
                _call(fleet, number)
            cold_models = cycle(reversed(range(HOT, count)))  # each model is evicted before its next call
            for turn in range(rounds):
                for name in results.turn(servers, turn):
                    server = servers[name]
                    for number in range(HOT):  # load the models that the server may have unloaded
                        _call(server, number)
                    latencies, of_cold = _measure(server, seconds, cold_models if server is fleet else None, cold_rate)
                    hot_p99[name].append(float(np.percentile(latencies, 99)))
                    cold += of_cold
                    click.echo(f"round {turn + 1}, {name}: p99 {1e3 * hot_p99[name][-1]:.2f} ms", err=True)
            resident = fleet.resident_mb()
        load = _load_seconds(few)
    ratios = [many / alone for many, alone in zip(hot_p99["many"], hot_p99["alone"], strict=True)]
    rows = [
        ("p99 of calls to 20 loaded models, alone", f"{1e3 * statistics.median(hot_p99['alone']):.2f} ms"),
        (f"p99 of calls to 20 loaded models of {count}", f"{1e3 * statistics.median(hot_p99['many']):.2f} ms"),
        (
            "the ratio, median and range over the rounds",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        ),
        (
            "a cold call, median and p90",
            f"{1e3 * statistics.median(cold):.0f} ms, {1e3 * float(np.percentile(cold, 90)):.0f} ms",
        ),
        ("loading the model in a process that does nothing else", f"{1e3 * load:.0f} ms"),
        ("memory for each model that is not loaded", f"{cold_kib:.1f} KB"),
        (f"memory of the process with --max-loaded-mib {limit} (RSS)", f"{resident:.0f} MB"),
    ]
    click.echo(table(("", ""), rows, right=1))


@contextmanager
def _pss(repository: Path, *arguments: str) -> Iterator[float]:
    """Run a server that has not loaded any model, and yield its PSS in MB."""
    with served(hangtag_serve(repository, *arguments)) as server:
        yield server.pss_mb()


def _call(server: Served, number: int) -> float:
    with Client(server.address) as client:
        return _timed(lambda: client.infer(f"m{number:04}", _IMAGE))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _measure(
    server: Served, seconds: float, cold_models: Iterator[int] | None, cold_rate: float
) -> tuple[list[float], list[float]]:
    """Return the latencies of calls to frequently called models, and of calls to models that are not loaded."""
    hot: list[float] = []
    cold: list[float] = []
    end = time.monotonic() + seconds

    def call_hot() -> None:
        with Client(server.address) as client:
            while time.monotonic() < end:
                hot.append(_timed(lambda: client.infer(f"m{len(hot) % HOT:04}", _IMAGE)))

    threads = [threading.Thread(target=call_hot) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    with Client(server.address) as client:
        while cold_models and time.monotonic() < end:
            name = f"m{next(cold_models):04}"
            cold.append(_timed(lambda: client.infer(name, _IMAGE)))  # noqa: B023  called at once
            time.sleep(1 / cold_rate)
    for thread in threads:
        thread.join()
    return hot, cold


def _load_seconds(repository: Path) -> float:
    """Return the median time of calls that load a model, in an otherwise idle server."""
    with served(hangtag_serve(repository, "--model-control", "explicit")) as server, Client(server.address) as client:
        return statistics.median(_timed(lambda: client.load_model(f"m{number:04}")) for number in range(9))  # noqa: B023
