"""Compares three load generators on the same closed loop against the real server.

Where a tool and the server share the CPUs (`together`), a tool that takes more of them leaves less to the server, and
so measures a slower one; hangtag's has to say so where it differs. With `apart` the server has one half of the CPUs,
and each tool, in its turn, has the other half, so the tools should agree.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from hangtag.serving.loadtest.machine.other_programs import other_programs
from studies import options, results
from studies.loadtest import conditions, report
from studies.loadtest.tools import TOOLS
from studies.server.process import Served, hangtag_serve, served

TOLERANCE = 0.1
MODELS = ("cnn", "lstm")
JUDGED = "cnn"
"""The model whose server is the bottleneck for every tool."""


@click.command()
@click.option("--place", type=click.Choice(["apart", "together"]), default="apart", show_default=True)
@options.MODELS
@click.option("--concurrency", default=16, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of each run; perf_analyzer's takes three times that.")
@click.option("--rounds", default=6, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=conditions.RESULTS, help="The results file.")
def main(place: str, models: Path, concurrency: int, seconds: float, rounds: int, out: Path) -> None:
    """Compare hangtag's load test with perf_analyzer and h2load on the same closed loop.

    Needs a machine that does nothing else. Exit code 1 when hangtag's throughput or p50 differs from h2load's by more
    than 10 % and it does not report itself as a limit.
    """
    command = f"python -m studies loadtest agreement --place {place} --rounds {rounds} --seconds {seconds:g}"
    line = conditions.line(place, command) | {"tools": conditions.tool_versions(), "concurrency": concurrency}
    line["models"] = {model: {name: [] for name in TOOLS} for model in MODELS}
    with other_programs() as others, _served(models, apart=place == "apart") as server:
        for number in range(rounds):
            for model in MODELS:
                for name in _rotated(list(TOOLS), number):
                    calls, cpu = server.answered(model).calls, server.cpu_seconds()
                    figures = TOOLS[name](server.address, model, concurrency, seconds)
                    cost = (server.cpu_seconds() - cpu) / (server.answered(model).calls - calls)
                    line["models"][model][name].append(asdict(figures) | {"server_cpu": cost})
    results.record(out, line | {"others": others.share or 0.0})
    Console().print(report.agreement_table(line))
    ratios = report.ratios(line, JUDGED)
    worst = max(abs(ratios["h2load", figure] - 1) for figure in ("throughput", "p50"))
    if worst > TOLERANCE and not report.says_that_it_is_a_limit(line, JUDGED):
        click.echo(f"on {JUDGED} hangtag and h2load disagree by {worst:.1%}, more than {TOLERANCE:.0%}", err=True)
        sys.exit(1)


def _rotated(names: list[str], number: int) -> list[str]:
    """The names in turn order: each round begins with another name."""
    start = number % len(names)
    return names[start:] + names[:start]


@contextmanager
def _served(models: Path, *, apart: bool) -> Iterator[Served]:
    """A server. With `apart` it has the first half of the CPUs, and this process the other half."""
    cpus = sorted(os.sched_getaffinity(0))
    half = len(cpus) // 2
    if apart and not half:
        raise click.ClickException("this machine has one CPU, which cannot be divided: use --place together.")
    if apart:
        os.sched_setaffinity(0, cpus[:half])  # The server inherits it.
    with served(hangtag_serve(models, "--transport", "native")) as server:
        if apart:
            os.sched_setaffinity(0, cpus[half:])
        try:
            yield server
        finally:
            os.sched_setaffinity(0, cpus)
