"""Measure how much faster several server processes are, and how much memory they take."""

from contextlib import ExitStack
from pathlib import Path

import click

from studies import options
from studies.bench import loads, systems
from studies.bench.comparison import Comparison, Turns, middle
from studies.bench.goals import figures
from studies.bench.process import served
from studies.page import Part, made_from, table

MODELS = ("lstm", "cnn")
SYSTEMS = {
    number: systems.System(f"{number} worker{'s' * (number != '1')}", systems.hangtag("--transport", "native",
                                                                                      "--workers", number))
    for number in ("1", "2")
}  # fmt: skip
COMPARISON = Comparison(
    "workers",
    {number: system.description for number, system in SYSTEMS.items()},
    {"64": "64 in flight", "start": "start with every model"},
    packages=("pygrpc-native", "onnxruntime"),
)


def part(path: Path | None = None) -> str:
    """A table with a row for each number of processes, and the source of the figures."""
    conditions, rounds = COMPARISON.read(path)
    rows = []
    for number in SYSTEMS:
        cells = []
        for model in MODELS:
            rates = figures(rounds, number, model, "64", "samples_per_s")
            cells.append(
                f"{middle(rounds, number, model, '64', 'samples_per_s')} ({min(rates):,.0f} to {max(rates):,.0f})"
            )
        rows.append((number, *cells, f"{middle(rounds, number, None, 'start', 'pss_mb')} MB"))
    head = ("workers", *(f"{model}, calls/s" for model in MODELS), "memory, PSS")
    return f"{made_from(path or COMPARISON.file, conditions)}.\n\n{table(head, rows)}"


PARTS = (Part("studies/bench/README.md", part, "several processes"),)


@click.command()
@options.ROUNDS
@options.SECONDS
@options.MODELS
@options.OUT
def main(rounds: int, seconds: float, models: Path, out: Path | None) -> None:
    """Measure calls a second and memory of servers with one process and with two. Needs h2load and an idle machine."""
    with ExitStack() as stack:
        starts = {name: stack.enter_context(system.launch(models)) for name, system in SYSTEMS.items()}

        def measure(turns: Turns) -> None:
            turns.each(SYSTEMS, None, "start", lambda name: loads.start(starts[name]))
            with ExitStack() as running:
                servers = {name: running.enter_context(served(start)) for name, start in starts.items()}
                for model in MODELS:
                    turns.each(SYSTEMS, model, "64", lambda name: loads.closed(
                        servers[name], loads.over_grpc(servers[name], model), loads.closed_loop("64"), seconds, model,  # noqa: B023
                    ))  # fmt: skip

        COMPARISON.run(rounds, measure, out or (COMPARISON.file if options.complete("models") else None))
