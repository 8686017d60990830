"""The benchmarks' results as tables: for a terminal, and between two marks of docs/loadtest.md (`make docs`)."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import click
from rich.table import Table

from hangtag.serving.loadtest import units
from studies.loadtest.results import FILE, Part

BEGIN = "<!-- figures: made by studies/loadtest/report.py -->\n"
END = "<!-- end of figures -->\n"
PLACES = {
    "apart": "the server on one half of the CPUs, the tool on the other",
    "together": "the tool and the server on the same CPUs",
}
SERVERS = {"null": "a server that does nothing", "lstm": "`hangtag serve`, lstm, on the same CPUs"}


def middle(found: Part, model: str, tool: str, figure: str) -> float:
    """The median over the rounds."""
    return float(median(one[figure] for one in found["models"][model][tool]))


def ratios(found: Part, model: str) -> Mapping[tuple[str, str], float]:
    """hangtag's figure as a multiple of each other tool's, by tool and figure."""
    others = [tool for tool in found["models"][model] if tool != "hangtag"]
    return {
        (tool, figure): middle(found, model, "hangtag", figure) / middle(found, model, tool, figure)
        for tool in others
        for figure in ("throughput", "p50")
    }


def agreement_rows(found: Part) -> list[list[str]]:
    """A row for each model and tool, below a header."""
    rows = [["model", "tool", "calls/s", "p50", "calls/s, hangtag / tool", "p50, hangtag / tool"]]
    for model, tools in found["models"].items():
        compared = ratios(found, model)
        for tool, rounds in tools.items():
            row = [model, tool, f"{middle(found, model, tool, 'throughput'):,.0f}"]
            row.append(units.duration(middle(found, model, tool, "p50")))
            if tool == "hangtag":
                said = sum(one["bottleneck"] for one in rounds)
                row += [f"the bottleneck, it says, in {said} of {len(rounds)}", ""]
            else:
                row += [units.times(compared[tool, figure]) for figure in ("throughput", "p50")]
            rows.append(row)
    return rows


def generator_rows(found: Part) -> list[list[str]]:
    """A row for each way to make calls, at the concurrency that suits it best."""
    rows = [["way", "calls/s at best", "in flight", "of hangtag's", "calls a CPU second"]]
    best = {way: max(each, key=lambda n: _rate(each[n])) for way, each in found["ways"].items()}
    ours = _rate(found["ways"]["hangtag"][best["hangtag"]])
    for way, each in found["ways"].items():
        rate = _rate(each[best[way]])
        per_cpu = median(one["per_cpu_second"] for one in each[best[way]])
        rows.append([way, f"{rate:,.0f}", best[way], units.times(rate / ours), f"{per_cpu:,.0f}"])
    return rows


def _rate(rounds: list[dict[str, float]]) -> float:
    return float(median(one["throughput"] for one in rounds))


def agreement_table(found: Part) -> Table:
    """For a terminal."""
    return _table(agreement_rows(found))


def generator_table(found: Part) -> Table:
    """For a terminal."""
    return _table(generator_rows(found))


def _table(rows: list[list[str]]) -> Table:
    table = Table(*rows[0], box=None)
    for row in rows[1:]:
        table.add_row(*row)
    return table


def markdown(document: Mapping[str, Part]) -> str:
    """Everything that was measured, each part with its machine, its day and its command."""
    lines = []
    for place, told in PLACES.items():
        if place in document:
            found = document[place]
            rounds = len(next(iter(next(iter(found["models"].values())).values())))
            lines += [f"{found['concurrency']} in flight, {told}; medians of {rounds} rounds, {_about(found)}:", ""]
            lines += [*_markdown_rows(agreement_rows(found)), ""]
    for server, told in SERVERS.items():
        if f"generators on {server}" in document:
            found = document[f"generators on {server}"]
            lines += [f"Ways to make calls from Python, on {told}, {_about(found)}:", ""]
            lines += [*_markdown_rows(generator_rows(found)), ""]
    return "\n".join(lines)


def _about(found: Part) -> str:
    environment = found["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found.get("tools", {}).items())
    on = f"{environment['CPU']}, {environment['CPUs usable']} CPUs, grpcio {environment['grpcio']}"
    return f"{found['date']} on {on}{', ' * bool(versions)}{versions}, `{found['command']}`"


def _markdown_rows(rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def written_into(page: str, document: Mapping[str, Part]) -> str:
    """The page with its figures replaced. Raises click.ClickException for one without the two marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise click.ClickException("the page has no place for the figures: the two marks are missing")
    return before + BEGIN + markdown(document) + END + after


@click.command()
@click.option("--results", "file", type=click.Path(exists=True, path_type=Path), default=FILE)
@click.option("--page", type=click.Path(exists=True, path_type=Path), default=Path("docs/loadtest.md"))
def main(file: Path, page: Path) -> None:
    """Write the figures into docs/loadtest.md."""
    page.write_text(written_into(page.read_text(), json.loads(file.read_text())))
    click.echo(f"wrote {page}")


if __name__ == "__main__":
    main()
