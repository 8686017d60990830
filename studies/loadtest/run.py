"""Compare three load generators on the same closed loop against the real server.

If a tool and the server share the CPUs (`together`), a tool that takes more CPU time leaves less to the server, and so
measures a slower server. hangtag's load test must report this if its figures differ. In `apart`, the server has half of
the CPUs, and each tool in turn has the other half, so the tools should agree.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median

import click

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.machine import other_programs
from studies import options, page, results
from studies.bench import h2load
from studies.bench.comparison import BUSY
from studies.bench.process import Served, hangtag_serve, served
from studies.loadtest.tools import PEERS, TOOLS
from studies.page import Part
from studies.results import Line

RESULTS = Path(__file__).with_name("results.jsonl")
TOLERANCE = 0.1
MODELS = ("cnn", "lstm")
JUDGED = "cnn"
"""The model whose server is the bottleneck for every tool."""
PLACES = {
    "apart": "the server on one half of the CPUs, the tool on the other",
    "together": "the tool and the server on the same CPUs",
}
COSTS = {"cpu": "CPU time a call, tool", "server_cpu": "CPU time a call, server"}
_HEAD = ("model", "tool", "calls/s", "p50", *COSTS.values(), "calls/s, hangtag / tool", "p50, hangtag / tool")


@click.command()
@click.option("--place", type=click.Choice(list(PLACES)), default="apart", show_default=True)
@options.MODELS
@click.option("--concurrency", default=16, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of each run; perf_analyzer's takes three times that.")
@click.option("--rounds", default=6, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The results file.")
def main(place: str, models: Path, concurrency: int, seconds: float, rounds: int, out: Path) -> None:
    """Compare hangtag's load test with perf_analyzer and h2load on the same closed loop.

    Needs a machine that does nothing else. Exit code 1 when hangtag's throughput or p50 differs from h2load's by more
    than 10 % and it does not report itself as a limit.
    """
    line = results.conditions(f"python -m studies loadtest run{options.given()}", results.versions(["grpcio"]))
    line |= {"run": place, "concurrency": concurrency}
    line["models"] = {model: {tool: [] for tool in TOOLS} for model in MODELS}
    line["versions"] |= {"perf_analyzer": _analyzer_version(), "h2load": h2load.version()}
    with other_programs() as others, _served(models, apart=place == "apart") as server:
        for number in range(rounds):
            for model in MODELS:
                for name in results.turn(TOOLS, number):
                    calls, cpu = server.answered(model), server.cpu_seconds()
                    figures = TOOLS[name](server.address, model, concurrency, seconds)
                    cost = (server.cpu_seconds() - cpu) / (server.answered(model) - calls)
                    line["models"][model][name].append(asdict(figures) | {"server_cpu": cost})
    results.record(out, line | {"others": others.share or 0.0})
    click.echo(page.table(_HEAD, rows(line)))
    worst = max(abs(_ratio(line, JUDGED, "h2load", figure) - 1) for figure in ("throughput", "p50"))
    limited = [turn["bottleneck"] for turn in line["models"][JUDGED]["hangtag"]]
    if worst > TOLERANCE and 2 * sum(limited) <= len(limited):
        raise click.ClickException(f"on {JUDGED} hangtag and h2load disagree by {worst:.1%}, more than {TOLERANCE:.0%}")


@contextmanager
def _served(models: Path, *, apart: bool) -> Iterator[Served]:
    """Run a server. With `apart`, the server has the first half of the CPUs, and this process has the second half."""
    cpus = sorted(os.sched_getaffinity(0))
    half = len(cpus) // 2 if apart else 0
    if apart and not half:
        raise click.ClickException("this machine has one CPU, which cannot be divided: use --place together.")
    try:
        os.sched_setaffinity(0, cpus[:half] or cpus)  # The server inherits it.
        with served(hangtag_serve(models, "--transport", "native")) as server:
            os.sched_setaffinity(0, cpus[half:])
            yield server
    finally:
        os.sched_setaffinity(0, cpus)


def _analyzer_version() -> str:
    output = subprocess.run([PEERS / "perf_analyzer", "--version"], capture_output=True, text=True, check=True)
    return (output.stdout + output.stderr).strip().removeprefix("Perf Analyzer Version ")


def _ratio(line: Line, model: str, tool: str, figure: str) -> float:
    """hangtag's figure divided by another tool's figure in the same round, as the median over the rounds."""
    tools = line["models"][model]
    pairs = zip(tools["hangtag"], tools[tool], strict=True)
    return float(median(own[figure] / other[figure] for own, other in pairs))


def rows(line: Line) -> Iterator[list[str]]:
    """A row for each model and tool."""

    def seconds(rounds: list[Mapping[str, float]], figure: str) -> str:
        return "" if rounds[0].get(figure) is None else units.duration(median(turn[figure] for turn in rounds))

    for model, tools in line["models"].items():
        for tool, rounds in tools.items():
            row = [model, tool, f"{median(turn['throughput'] for turn in rounds):,.0f}"]
            row += [seconds(rounds, figure) for figure in ("p50", *COSTS)]
            if tool == "hangtag":
                times = sum(turn["bottleneck"] for turn in rounds)
                yield [*row, f"reports itself as a limit in {times} of {len(rounds)}", ""]
            else:
                yield [*row, *(units.times(_ratio(line, model, tool, figure)) for figure in ("throughput", "p50"))]


def part(path: Path = RESULTS) -> str:
    """Every recorded measurement with its source."""
    lines = results.read(path)
    blocks = []
    for place, description in PLACES.items():
        if line := lines.get(place):
            rounds = len(line["models"][JUDGED]["hangtag"])
            others = f" Other programs took {line['others']:.0%} of the CPUs." if line.get("others", 0) >= BUSY else ""
            blocks.append(
                f"{line['concurrency']} in flight, {description}; medians of {rounds} rounds, also of the ratios "
                f"within each. {page.made_from(path, line)}.{others}"
            )
            blocks.append(page.table(_HEAD, rows(line)))
    return "\n\n".join(blocks)


PARTS = (Part("studies/loadtest/README.md", part, "measurements"),)
