"""Makes tables of the recorded measurements: for a terminal, and for docs/loadtest.md."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median

from rich.table import Table

from hangtag.serving.loadtest import units
from studies import page, results
from studies.loadtest.conditions import RESULTS
from studies.page import Part
from studies.results import Line
from studies.server.report import BUSY

PLACES = {
    "apart": "the server on one half of the CPUs, the tool on the other",
    "together": "the tool and the server on the same CPUs",
}
COSTS = {"cpu": "CPU time a call, tool", "server_cpu": "CPU time a call, server"}
SERVERS = {"null": "a server that does nothing", "lstm": "`hangtag serve`, lstm, on the same CPUs"}


def middle(line: Line, model: str, tool: str, figure: str) -> float:
    """The median over the rounds."""
    return float(median(turn[figure] for turn in line["models"][model][tool]))


def ratios(line: Line, model: str) -> Mapping[tuple[str, str], float]:
    """hangtag's figure divided by each other tool's of the same round, by tool and figure: medians over the rounds."""
    others = dict(line["models"][model])
    ours = others.pop("hangtag")
    return {
        (tool, figure): float(median(own[figure] / other[figure] for own, other in zip(ours, rounds, strict=True)))
        for tool, rounds in others.items()
        for figure in ("throughput", "p50")
    }


def says_that_it_is_a_limit(line: Line, model: str) -> bool:
    """Whether hangtag's load test reports in most rounds that its generator limited the throughput."""
    rounds = line["models"][model]["hangtag"]
    return 2 * sum(bool(turn["bottleneck"]) for turn in rounds) > len(rounds)


def agreement_rows(line: Line) -> list[list[str]]:
    """A row for each model and tool, below a header."""
    rows = [["model", "tool", "calls/s", "p50", *COSTS.values(), "calls/s, hangtag / tool", "p50, hangtag / tool"]]
    for model, tools in line["models"].items():
        compared = ratios(line, model)
        for tool, rounds in tools.items():
            row = [model, tool, f"{middle(line, model, tool, 'throughput'):,.0f}"]
            row.append(units.duration(middle(line, model, tool, "p50")))
            row += ["" if rounds[0].get(cost) is None else _cost(line, model, tool, cost) for cost in COSTS]
            if tool == "hangtag":
                times = sum(turn["bottleneck"] for turn in rounds)
                row += [f"reports itself as a limit in {times} of {len(rounds)}", ""]
            else:
                row += [units.times(compared[tool, figure]) for figure in ("throughput", "p50")]
            rows.append(row)
    return rows


def _cost(line: Line, model: str, tool: str, cost: str) -> str:
    return units.duration(middle(line, model, tool, cost))


def generator_rows(line: Line) -> list[list[str]]:
    """A row for each way to make calls, at the concurrency where it is fastest."""
    rows = [["way", "calls/s at best", "in flight", "way / hangtag", "calls a CPU second"]]
    best = {way: max(each, key=lambda n: _rate(each[n])) for way, each in line["ways"].items()}
    ours = _rate(line["ways"]["hangtag"][best["hangtag"]])
    for way, each in line["ways"].items():
        rate = _rate(each[best[way]])
        per_cpu = median(turn["per_cpu_second"] for turn in each[best[way]])
        rows.append([way, f"{rate:,.0f}", best[way], units.times(rate / ours), f"{per_cpu:,.0f}"])
    return rows


def _rate(rounds: list[dict[str, float]]) -> float:
    return float(median(turn["throughput"] for turn in rounds))


def agreement_table(line: Line) -> Table:
    """For a terminal."""
    return _table(agreement_rows(line))


def generator_table(line: Line) -> Table:
    """For a terminal."""
    return _table(generator_rows(line))


def _table(rows: list[list[str]]) -> Table:
    table = Table(*rows[0], box=None)
    for row in rows[1:]:
        table.add_row(*row)
    return table


def part(path: Path = RESULTS) -> str:
    """Every recorded measurement with its machine, day and command. Raises click.ClickException, as read."""
    lines = results.read(path)
    blocks = ["Made by `make docs` from [studies/loadtest/results.jsonl](../studies/loadtest/results.jsonl)."]
    for place, description in PLACES.items():
        if line := lines.get(place):
            rounds = len(next(iter(next(iter(line["models"].values())).values())))
            blocks.append(
                f"{line['concurrency']} in flight, {description}; medians of {rounds} rounds, also of the ratios "
                f"within each, {_conditions(line)}:"
            )
            blocks.append(_markdown(agreement_rows(line)))
    for server, description in SERVERS.items():
        if line := lines.get(f"generators on {server}"):
            blocks.append(f"Ways to make calls from Python, on {description}, {_conditions(line)}:")
            blocks.append(_markdown(generator_rows(line)))
    return "\n\n".join(blocks)


def _conditions(line: Line) -> str:
    environment = line["environment"]
    versions = "".join(f", {name} {version}" for name, version in line.get("tools", {}).items())
    machine = f"{environment['CPU']}, {environment['CPUs usable']} CPUs, grpcio {environment['grpcio']}"
    others = f", other programs took {line['others']:.0%} of the CPUs" if line.get("others", 0) >= BUSY else ""
    return f"{line['date']} on {machine}{versions}{others}, `{line['command']}`"


def _markdown(rows: list[list[str]]) -> str:
    return page.table(rows[0], rows[1:])


PARTS = (Part("docs/loadtest.md", part, "measurements"),)
