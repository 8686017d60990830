"""The results as tables: for a terminal, and between two marks of docs/performance.md."""

import json
import statistics
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from studies import marked
from studies.server.goals import Results, bare_rate, goals

HERE = Path(__file__).parent
BEGIN, END = marked.begin("studies/server/report.py"), marked.END
Rows = list[list[str]]


def tables(results: Results) -> list[Table]:
    """The goals, then every scenario."""
    made = []
    for title, header, rows in ((_GOALS, *_goal_rows(results)), (_SCENARIOS, *_scenario_rows(results))):
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        made.append(table)
    return made


_GOALS = "Goals, medians"
_SCENARIOS = "Every scenario, medians"


def _goal_rows(results: Results) -> tuple[list[str], Rows]:
    rows = []
    for hot, ordinary in zip(goals(results), goals(results, "ordinary"), strict=True):
        spread = f"{min(hot.figures):.3g} to {max(hot.figures):.3g}"
        reached = "yes" if hot.reached else "no"
        rows.append([hot.name, hot.text, f"{hot.median:.3g}", spread, reached, f"{ordinary.median:.3g}"])
    return ["figure", "goal", "hot path", "over the rounds", "reached", "ordinary path"], rows


def _scenario_rows(results: Results) -> tuple[list[str], Rows]:
    header = ["model", "load", "path", "samples/s", "of bare", "p50 ms", "p99 ms", "CPUs", "mean batch"]
    loads = {"many": "64 in flight", "one": "1 in flight", "offline": "2 in flight, 64 samples each"}
    rounds = results["rounds"]
    rows = []
    for model in rounds[0]["bare"]:
        bare = statistics.median(bare_rate(one["bare"][model]) for one in rounds)
        single = statistics.median(one["bare"][model]["single"]["all_threads"]["p50_ms"] for one in rounds)
        rows.append([model, "batches of 64", "bare ONNX Runtime", f"{bare:,.0f}", "1", "", "", "", "64"])
        rows.append([model, "1 sample", "bare ONNX Runtime", "", "", f"{single:.3f}", "", "", "1"])
        for scenario, load in loads.items():
            for path in ("hot", "ordinary"):
                turns = [one[path][model][scenario] for one in rounds]
                median = {figure: statistics.median(one[figure] for one in turns) for figure in turns[0]}
                rate = median["samples_per_s"]
                row = [model, load, path, f"{rate:,.0f}", f"{rate / bare:.2f}"]
                row += [f"{median['p50_ms']:.3f}", f"{median['p99_ms']:.3f}", f"{median['cpus']:.2f}"]
                rows.append([*row, f"{median['mean_batch']:.1f}"])
    return header, rows


def markdown(results: Results) -> str:
    """Both tables, with what they were measured on and by which command."""
    machine, versions = results["machine"], results["versions"]
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [f"Measured {results['date']} on {machine['cpus']} CPUs ({machine['processor']}; {told}):", ""]
    lines += [f"`{results['command']}`", ""]
    for header, rows in (_goal_rows(results), _scenario_rows(results)):
        lines += [_line(header), _line(["---"] * len(header)), *map(_line, rows), ""]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def written_into(page: str, results: Results) -> str:
    """The page with its figures replaced. Raises click.ClickException for one without the two marks."""
    return marked.replaced(page, BEGIN, markdown(results))


@click.command()
@click.option("--results", type=click.Path(exists=True, path_type=Path), default=HERE / "results.json")
@click.option("--page", type=click.Path(exists=True, path_type=Path), default=Path("docs/performance.md"))
def main(results: Path, page: Path) -> None:
    """Write the figures of a results file into docs/performance.md."""
    measured: dict[str, Any] = json.loads(results.read_text())
    page.write_text(written_into(page.read_text(), measured))
    click.echo(f"wrote {page}")


if __name__ == "__main__":
    main()
