"""Measures calls a second and memory of servers with one process and with several, in turns."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from studies import options, page, results
from studies.results import Line
from studies.server import h2load
from studies.server.comparison import versions
from studies.server.h2load import Load
from studies.server.process import Launch, Served, hangtag_serve, served
from studies.workers.report import PROCESSES, RESULTS, process_rows

MODELS = ("lstm", "cnn")
_PACKAGES = ("pygrpc-native", "onnxruntime")
_CNN_SHARE = 5
_LEAST_CALLS = 100


@click.command()
@options.MODELS
@click.option("--workers", type=click.IntRange(1), multiple=True, default=(1, 2), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Measurements of each server.")
@click.option(
    "--calls", type=click.IntRange(1), default=20_000, show_default=True, help="Calls to lstm; cnn gets a fifth."
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The results file.")
def main(models: Path, workers: tuple[int, ...], rounds: int, calls: int, out: Path) -> None:
    """Measure calls a second and memory, for docs/performance.md.

    Needs h2load, and a machine that does nothing else.
    """
    command = f"python -m studies workers run --rounds {rounds} --calls {calls}"
    conditions = results.conditions(command, versions(_PACKAGES))
    # One at a time: servers that run together share memory, which PSS would divide.
    servers: dict[str, Line] = {str(number): {"pss_mb": _memory(models, number)} for number in workers}
    with ExitStack() as stack:
        running = {str(number): stack.enter_context(served(_launch(models, number))) for number in workers}
        for turn in range(rounds):
            for model in MODELS:
                for number in _alternately(running, turn):
                    rates = servers[number].setdefault("per_second", {}).setdefault(model, [])
                    rates.append(_calls_per_second(running[number], model, calls))
    line = conditions | {"run": PROCESSES, "servers": servers}
    results.record(out, line)
    rows = process_rows(line)
    click.echo(page.table(rows[0], rows[1:]))
    click.echo(f"wrote {out}; load average before: {conditions['load_before']:.2f}", err=True)


def _alternately(names: Iterable[str], turn: int) -> list[str]:
    return list(names) if turn % 2 == 0 else list(names)[::-1]


def _calls_per_second(server: Served, model: str, calls: int) -> float:
    load = Load(calls if model == "lstm" else max(_LEAST_CALLS, calls // _CNN_SHARE), clients=16, streams=4)
    h2load.run(server.url, model, replace(load, calls=_LEAST_CALLS))  # warm-up
    return h2load.run(server.url, model, load).per_second


def _memory(models: Path, workers: int) -> float:
    with served(_launch(models, workers)) as alone:
        return alone.pss_mb()


def _launch(models: Path, workers: int) -> Launch:
    return hangtag_serve(models, "--transport", "native", "--workers", str(workers))
