"""``make loadtest-agreement``: do three load generators say the same of one closed loop on the real server?

On a machine that does nothing else. Where tool and server share the CPUs, a tool that takes more of them leaves the
server less, and so sees a slower one. What is judged is what they say when the server has one half of the CPUs and
the tools, in turn, have the other (`apart`); `together` shows how far they part otherwise.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from studies.loadtest import report, results
from studies.loadtest.tools import TOOLS
from studies.server.process import served

TOLERANCE = 0.1
# The model that is judged is the one whose server is the bottleneck for every tool.
JUDGED, MODELS = "cnn", ("cnn", "lstm")


@click.command()
@click.option("--place", type=click.Choice(["apart", "together"]), default="apart", show_default=True)
@click.option("--models", type=click.Path(exists=True, path_type=Path), default=Path("models"), show_default=True)
@click.option("--concurrency", default=8, show_default=True)
@click.option("--seconds", default=2, show_default=True, help="Of each run; perf_analyzer's takes three times as long.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=results.FILE, show_default=True)
def main(place: str, models: Path, concurrency: int, seconds: int, rounds: int, out: Path) -> None:
    """Compare throughput and p50 of the same closed loop. Exit code 1 when hangtag is more than 10 % off another."""
    command = f"make loadtest-agreement ARGS='--place {place} --rounds {rounds} --seconds {seconds}'"
    found = results.about(command) | {"tools": results.tool_versions(), "concurrency": concurrency}
    found["models"] = {model: {name: [] for name in TOOLS} for model in MODELS}
    with _served(models, apart=place == "apart") as address:
        for number in range(rounds):
            for model in MODELS:
                for name in _turn(list(TOOLS), number):
                    figures = TOOLS[name](address, model, concurrency, seconds)
                    found["models"][model][name].append(asdict(figures))
    results.keep(place, found, out)
    Console().print(report.agreement_table(found))
    worst = max(abs(ratio - 1) for ratio in report.ratios(found, JUDGED).values())
    if place == "apart" and worst > TOLERANCE:
        click.echo(f"on {JUDGED} they disagree by {worst:.1%}, more than {TOLERANCE:.0%}", err=True)
        sys.exit(1)


def _turn(names: list[str], number: int) -> list[str]:
    """Each round begins with another one."""
    start = number % len(names)
    return names[start:] + names[:start]


@contextmanager
def _served(models: Path, *, apart: bool) -> Iterator[str]:
    """A server's address; when `apart`, it has the first half of the CPUs, and this process the others."""
    cpus = sorted(os.sched_getaffinity(0))
    half = len(cpus) // 2
    if apart and not half:
        raise click.ClickException("one CPU cannot be shared out: --place together")
    if apart:
        os.sched_setaffinity(0, cpus[:half])  # The server is started with what this process may use.
    with served(models, "hot") as server:
        if apart:
            os.sched_setaffinity(0, cpus[half:])
        try:
            yield server.address
        finally:
            os.sched_setaffinity(0, cpus)


if __name__ == "__main__":
    main()
