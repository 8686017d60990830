"""Makes the tables of servers with several processes, for docs/performance.md."""

from collections.abc import Callable
from pathlib import Path
from statistics import median

import click

from studies import page, results
from studies.page import Part
from studies.results import Line

RESULTS = Path(__file__).with_name("results.jsonl")
PROCESSES, SHARING = "processes", "sharing"
WAYS = {
    "no models": "nothing is loaded",
    "as served": "weights in the model's file",
    "mapped": "weights in a separate file, which ONNX Runtime maps",
    "mapped, as they are": "the same, without packing the weights for the processor",
}


def process_rows(line: Line) -> list[list[str]]:
    """A row for each number of worker processes, below a header."""
    models = list(next(iter(line["servers"].values()))["per_second"])
    rows = [["workers", *(f"{model}, calls/s" for model in models), "memory, PSS"]]
    for number, server in line["servers"].items():
        rates = [_range(server["per_second"][model]) for model in models]
        rows.append([number, *rates, f"{server['pss_mb']:.0f} MB"])
    return rows


def sharing_rows(line: Line) -> list[list[str]]:
    """A row for each way to store the weights, below a header."""
    rows = [["weights", "anonymous", "mapped from files"]]
    for way, megabytes in line["megabytes"].items():
        rows.append([WAYS[way], f"{megabytes['anonymous']:.0f} MB", f"{megabytes['files']:.0f} MB"])
    return rows


def _range(rates: list[float]) -> str:
    return f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def part(name: str, rows: Callable[[Line], list[list[str]]], path: Path = RESULTS) -> str:
    """A table with its source. Raises click.ClickException where the line is missing or malformed."""
    lines = results.read(path)
    if name not in lines:
        raise click.ClickException(f"{path} has no line {name}.")
    line = lines[name]
    head, *body = rows(line)
    versions = ", ".join(f"{package} {version}" for package, version in line["versions"].items())
    return f"""Made by `make docs` from [studies/workers/results.jsonl](../studies/workers/results.jsonl):
`{line["command"]}`, {line["date"]}, {line["processor"]}, {line["cpus"]} CPUs, {versions}.

{page.table(head, body)}"""


PARTS = (
    Part("docs/performance.md", lambda: part(PROCESSES, process_rows), "several processes"),
    Part("docs/performance.md", lambda: part(SHARING, sharing_rows), "memory that workers could share"),
)
