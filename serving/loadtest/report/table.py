"""Renders results for a terminal, as a table per load with a line per target, and as sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hangtag.printable import escaped
from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.answer import common_load
from hangtag.serving.loadtest.comparison.compare import Comparison
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.report.json_document import ResultsDocument

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
FIGURE_WIDTH = 9  # The width of a column and its padding, enough for 1,234 ms, 12,345 and samples/s.


def render(results: ResultsDocument, console: Console) -> None:
    """Print the tables, the findings and the problems."""
    groups = groups_of(results)
    for group, table in zip(groups, tables(groups, console.width, results.batched), strict=True):
        console.print(table)
        for run in group.runs:
            if run.lateness_note:
                console.print(line(f"{run.target}: {run.lateness_note}", style="dim"))
        console.print()
    for name, accuracy in results.accuracies.items():
        share = f"{accuracy.share:.2%} of {accuracy.total:,} samples (95 %: {accuracy.low:.2%} to {accuracy.high:.2%})"
        console.print(line(f"{name} classifies {share} correctly. {accuracy.note}".strip()))
    # The tables have all ratios. If there are more than two targets, the sentences have only the ratios at the common
    # load.
    shown = results.loads if len(results.scenario.names) == 2 else [common_load(results)]
    for sentence in (
        *(run.verdict for run in results.runs if run.verdict),
        *(comparison.sentence for comparison in results.comparisons if comparison.load in shown),
        *(peak.sentence for peak in results.peaks),
    ):
        console.print(line(sentence))
    sent = f"Sent: {'; '.join(dict.fromkeys(results.samples.values()))}."
    warm_up = f"{results.warm_up_queries:,} queries of the warm-up were sent before, and discarded."
    remarks = (sent, warm_up * bool(results.warm_up_queries), results.generator_share, results.others_sentence)
    for remark in filter(None, remarks):
        console.print(line(remark, style="dim"))
    _problems(results, console)
    if results.valid:
        verdict = " the figures of every run can be trusted."
        if results.doubtful:
            verdict = f", but DOUBTFUL: {results.doubtful} of {len(results.runs)} runs have a doubt, listed above."
        console.print(Text.assemble(("VALID", "bold green"), verdict))
    for outcome in results.gates:
        style = "bold red" if outcome.failed else ""
        console.print(Text.assemble(("FAILED " if outcome.failed else "passed ", style), escaped(outcome.sentence)))
    if (reply := results.answer) is not None:
        console.print()
        for question, text in (("Which", reply.which), ("By how much", reply.how_much), ("How sure", reply.how_sure)):
            console.print(Text.assemble((f"{question}: ", "bold"), escaped(text)))


def line(text: str, style: str = "") -> Text:
    """Return a line to print. Control characters, which a server's messages may contain, are escaped."""
    return Text(escaped(text), style=style)


def _problems(results: Results, console: Console) -> None:
    for problem in results.invalid:
        console.print(Text.assemble(("INVALID ", "bold red"), escaped(f"{problem}.")))
    _remarks("INVALID ", "bold red", [(run, problem) for run in results.runs for problem in run.invalid], console)
    details = {f"{status}: {message}" for run in results.runs for status, message in run.total.details.items()}
    for detail in sorted(details):
        console.print(line(f"  {detail}", style="dim"))
    doubts = [(run, run.doubt) for run in results.runs if run.doubt]
    _remarks("DOUBTFUL ", "bold yellow", doubts, console)
    _remarks("note ", "bold yellow", [(run, note) for run in results.runs for note in run.notes], console)


def _remarks(word: str, style: str, remarks: Sequence[tuple[Run, str]], console: Console) -> None:
    """Print remarks about runs, with the same remark about several runs in one line."""
    for text in dict.fromkeys(text for _, text in remarks):
        names = "; ".join(str(run) for run, own in remarks if own == text)
        console.print(Text.assemble((word, style), escaped(f"{names}: {text}")))


@dataclass(frozen=True)
class RunGroup:
    """The runs of one table, and the ratios between these runs by label."""

    title: str
    runs: tuple[Run, ...]
    ratios: tuple[tuple[str, Comparison], ...]


def groups_of(results: ResultsDocument) -> list[RunGroup]:
    """Return a group of runs for each load."""
    return [
        RunGroup(
            f"{load.kind}, {load}",
            results.under(load),
            tuple((f"{each.target} / {each.baseline}", each) for each in results.comparisons if each.load == load),
        )
        for load in results.loads
    ]


def tables(groups: Sequence[RunGroup], width: int, batched: bool = False) -> Iterator[Table]:
    """Yield a table for each group, for a terminal of this width. The columns of all tables are aligned."""
    rates = ["calls/s", "samples/s"] if batched else ["calls/s"]
    headers = [*rates, *(f"p{q:g}" for q in PERCENTILES), "max", "failed"]
    labels = [label for each in groups for label in (*(run.target for run in each.runs), *dict(each.ratios))]
    # Long names are wrapped, so that the figures have enough room.
    names = min(max(map(len, labels), default=0), max(width - FIGURE_WIDTH * len(headers), 8))
    for group in groups:
        table = Table(
            title=line(group.title, style="bold cyan"),
            title_justify="left",
            box=None,
            pad_edge=False,
            header_style="dim",
        )
        table.add_column("", width=names, overflow="fold")
        for header in headers:
            table.add_column(header, justify="right", no_wrap=True, min_width=7)
        for run in group.runs:
            table.add_row(*_cells(run, batched), style=None if run.valid else "red")
        for label, comparison in group.ratios:
            table.add_row(*_ratio_cells(label, comparison, batched), style="dim")
        yield table


def _cells(run: Run, batched: bool) -> list[str]:
    """Return the cells of a run's row: target, rates, percentiles, maximum and failures."""
    latency = run.total.latency
    rates = [run.throughput, run.samples_per_second] if batched else [run.throughput]
    durations = [*(latency.percentile(q) for q in PERCENTILES), latency.maximum]
    return [
        escaped(run.target), *map(units.three_digits, rates), *map(units.duration, durations), f"{run.total.failed:,}"
    ]  # fmt: skip


def _ratio_cells(label: str, comparison: Comparison, batched: bool) -> list[str]:
    """Return the cells of a row of ratios. The columns are those of `_cells`. INVALID runs have no ratios."""
    if not comparison.meaningful:
        return [escaped(label), "INVALID"]
    throughput = "" if comparison.generator_limited else units.times(comparison.throughput.estimate)
    p50, p99 = (units.times(ratio.estimate) for ratio in (comparison.p50, comparison.p99))
    return [escaped(label), throughput, *[""] * batched, p50, "", "", p99]
