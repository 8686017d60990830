"""The results as a person reads them in a terminal: models under each other for every load, then the sentences."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serving.loadtest import units
from serving.loadtest.comparison import Comparison
from serving.loadtest.results import Results, Run
from serving.loadtest.scenario import Load

PERCENTILES = (50.0, 90.0, 95.0, 99.0)


def render(results: Results, compared: tuple[Comparison, ...], console: Console) -> None:
    """Print the table, the comparison, and what is wrong."""
    for load in results.loads:
        console.print(_table(results, load, tuple(comparison for comparison in compared if comparison.load == load)))
        console.print()
    for comparison in compared:
        console.print(Text(comparison.sentence))
    if results.interrupted:
        console.print(Text("Interrupted: this is what there was.", style="bold red"))
    for run in results.runs:
        for problem in run.problems:
            console.print(Text.assemble(("INVALID ", "bold red"), f"{run.model}, {run.load}: {problem}"))
        for status, message in run.total.details.items():
            console.print(Text(f"  {status}: {message}", style="dim"))
    if not results.runs:
        console.print(Text("Nothing was measured.", style="bold red"))


def _table(results: Results, load: Load, compared: tuple[Comparison, ...]) -> Table:
    batched = results.scenario.batch_size > 1
    table = Table(
        title=f"{load.kind}, {load}",
        title_justify="left",
        title_style="bold cyan",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    # Equal widths, so that the tables of all loads line up.
    table.add_column("", min_width=max(map(len, _labels(results))))
    rates = ["calls/s", "samples/s"] if batched else ["calls/s"]
    for head in [*rates, *(f"p{q:g}" for q in PERCENTILES), "max", "failed"]:
        table.add_column(head, justify="right", no_wrap=True, min_width=7)
    for run in results.under(load):
        table.add_row(*_cells(run, batched), style=None if run.valid else "red")
    for comparison in compared:
        ratios = [units.times(comparison.throughput.estimate), *([""] if batched else [])]
        ratios += [units.times(comparison.p50.estimate), "", "", units.times(comparison.p99.estimate)]
        table.add_row(_label(comparison), *ratios, style="dim")
    return table


def _label(comparison: Comparison) -> str:
    return f"{comparison.model} / {comparison.baseline}"


def _labels(results: Results) -> list[str]:
    models = results.scenario.models
    return [*models, *(f"{model} / {models[0]}" for model in models[1:])]


def _cells(run: Run, batched: bool) -> list[str]:
    total = run.total
    return [
        run.model,
        units.three_digits(run.throughput),
        *([units.three_digits(run.samples_per_second)] if batched else []),
        *(units.duration(total.latency.percentile(q)) for q in PERCENTILES),
        units.duration(total.latency.maximum),
        units.count(total.failed),
    ]
