"""Measures calls a second and memory of servers with one process and with several, in turns."""

import os
import statistics
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from hangtag.serving.loadtest.machine.environment import cpu_model
from studies import options
from studies.server import h2load
from studies.server.h2load import Load
from studies.server.process import Launch, hangtag_serve, served

MODELS = ("lstm", "cnn")


@click.command()
@options.MODELS
@click.option("--workers", type=click.IntRange(1), multiple=True, default=(1, 2), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Measurements of each server.")
@click.option(
    "--calls", type=click.IntRange(1), default=20_000, show_default=True, help="Calls to lstm; cnn gets a fifth."
)
def main(models: Path, workers: tuple[int, ...], rounds: int, calls: int) -> None:
    """Measure calls a second and memory, and print a table in Markdown.

    The table has medians and ranges, and belongs into docs/performance.md. Needs h2load, and a
    machine that does nothing else.
    """
    rates: dict[tuple[int, str], list[float]] = defaultdict(list)
    memory = {}
    for number in workers:  # One at a time: servers that run together share memory, which PSS would divide.
        with served(_launch(models, number)) as alone:
            memory[number] = alone.pss_mb()
    with ExitStack() as stack:
        servers = {number: stack.enter_context(served(_launch(models, number))) for number in workers}
        for turn in range(rounds):
            for model in MODELS:
                for number in workers if turn % 2 == 0 else workers[::-1]:
                    load = Load(calls if model == "lstm" else max(100, calls // 5), clients=16, streams=4)
                    h2load.run(servers[number].url, model, replace(load, calls=100))  # warm-up
                    rates[number, model].append(h2load.run(servers[number].url, model, load).per_second)
    console = Console(highlight=False)
    console.print(f"{cpu_model()}, {len(os.sched_getaffinity(0))} CPUs, {rounds} rounds")
    console.print("| workers | " + " | ".join(f"{model}, calls/s" for model in MODELS) + " | memory, PSS |")
    console.print("| --- " * (len(MODELS) + 2) + "|")
    for number in workers:
        cells = " | ".join(_range(rates[number, model]) for model in MODELS)
        console.print(f"| {number} | {cells} | {memory[number]:.0f} MB |")


def _launch(models: Path, workers: int) -> Launch:
    return hangtag_serve(models, "--transport", "native", "--workers", str(workers))


def _range(rates: list[float]) -> str:
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
