"""Renders results and comparisons for a terminal, as a table per load with a line per target, and as sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hangtag.printable import escaped
from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.answer import common_load
from hangtag.serving.loadtest.comparison.compare import MACHINE, Comparison, SavedComparison
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.report.json_document import ResultsDocument

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
FIGURE_WIDTH = 9  # The width of a column with its padding, enough for "1,234 ms" or "samples/s".


def render(results: ResultsDocument, console: Console) -> None:
    """Print the tables, the findings and the problems."""
    groups = groups_of(results)
    for group, table in zip(groups, tables(groups, console.width, results.scenario.batch_size > 1), strict=True):
        console.print(table)
        for run in group.runs:
            if run.lateness_note:
                console.print(line(f"{run.target}: {run.lateness_note}", style="dim"))
        console.print()
    for name, accuracy in results.accuracies.items():
        share = f"{accuracy.share:.2%} of {accuracy.total:,} samples (95 %: {accuracy.low:.2%} to {accuracy.high:.2%})"
        console.print(line(f"{name} classifies {share} correctly. {accuracy.note}".strip()))
    # The tables show all ratios. With more than two targets, the sentences state only the ratios at the common load.
    shown = results.loads if len(results.scenario.names) == 2 else [common_load(results)]
    for sentence in (
        *(run.verdict for run in results.runs if run.verdict),
        *(comparison.sentence for comparison in results.comparisons if comparison.load in shown),
        *(peak.sentence for peak in results.peaks),
    ):
        console.print(line(sentence))
    sent = f"Sent: {'; '.join(dict.fromkeys(results.samples.values()))}."
    discarded = sum(run.total.warm_up_queries for run in results.runs)
    warm_up = f"{discarded:,} queries of the warm-up were sent before, and discarded."
    remarks = (sent, warm_up * bool(discarded), results.generator_share, results.others_sentence)
    for remark in filter(None, remarks):
        console.print(line(remark, style="dim"))
    for problem in results.invalid:
        console.print(Text.assemble(("INVALID ", "bold red"), escaped(f"{problem}.")))
    _remarks("INVALID ", "bold red", [(run, problem) for run in results.runs for problem in run.invalid], console)
    for detail in sorted({f"{status}: {text}" for run in results.runs for status, text in run.total.details.items()}):
        console.print(line(f"  {detail}", style="dim"))
    doubts = [(run, run.doubt) for run in results.runs if run.doubt]
    _remarks("DOUBTFUL ", "bold yellow", doubts, console)
    _remarks("note ", "bold yellow", [(run, note) for run in results.runs for note in run.notes], console)
    if results.valid:
        verdict = " the figures of every run can be trusted."
        if doubts:
            verdict = f", but DOUBTFUL: {len(doubts)} of {len(results.runs)} runs are doubtful, for the reasons above."
        console.print(Text.assemble(("VALID", "bold green"), verdict))
    for outcome in results.gates:
        style = "bold red" if outcome.failed else ""
        console.print(Text.assemble(("FAILED " if outcome.failed else "passed ", style), escaped(outcome.sentence)))
    if (reply := results.answer) is not None:
        console.print()
        for question, text in (("Which", reply.which), ("By how much", reply.how_much), ("How sure", reply.how_sure)):
            console.print(Text.assemble((f"{question}: ", "bold"), escaped(text)))


def render_comparison(comparison: SavedComparison, console: Console) -> None:
    """Print how the models, samples, options and environments differ, and a table for each target and load, with the
    figures before and after, and their ratio. A separate warning names differences of the machines."""
    found = comparison.setting_differences | comparison.environment_differences
    if not found:
        console.print(Text("Both runs have the same models, samples, options and environment."))
    for label, values in found.items():
        if label not in MACHINE:
            difference = escaped(f"{label}: {values['before']} before, {values['after']} after")
            console.print(Text.assemble(("differs ", "bold yellow"), difference))
    console.print()
    groups = groups_of_saved(comparison)
    for group, table in zip(groups, tables(groups, console.width), strict=True):
        console.print(table)
        console.print(line(group.ratios[0][1].sentence))
        console.print()


def line(text: str, style: str = "") -> Text:
    """Return a line to print. Control characters, which a server's messages may contain, are escaped."""
    return Text(escaped(text), style=style)


def _remarks(word: str, style: str, remarks: Sequence[tuple[Run, str]], console: Console) -> None:
    """Print remarks about runs. A remark about several runs is printed once, with the names of these runs."""
    for text in dict.fromkeys(text for _, text in remarks):
        names = "; ".join(str(run) for run, own in remarks if own == text)
        console.print(Text.assemble((word, style), escaped(f"{names}: {text}")))


@dataclass(frozen=True)
class RunGroup:
    """The runs of one table, and the ratios between these runs, each with its label."""

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


def groups_of_saved(compared: SavedComparison) -> list[RunGroup]:
    """Return the two runs of each comparison. The targets of these runs are named "before" and "after"."""
    return [
        RunGroup(
            f"{comparison.target}, {comparison.load.kind}, {comparison.load}",
            (replace(before, target="before"), replace(after, target="after")),
            (("after / before", comparison),),
        )
        for before, after, comparison in compared.pairs
    ]


def tables(groups: Sequence[RunGroup], width: int, batched: bool = False) -> Iterator[Table]:
    """Yield a table for each group, for a terminal of this width. The columns of all tables are aligned."""
    rates = ["calls/s", "samples/s"] if batched else ["calls/s"]
    headers = [*rates, *(f"p{q:g}" for q in PERCENTILES), "max", "failed"]
    labels = [label for each in groups for label in (*(run.target for run in each.runs), *dict(each.ratios))]
    # Long names are wrapped, so that the figures have enough room.
    names = min(max(map(len, labels), default=0), max(width - FIGURE_WIDTH * len(headers), 8))
    for group in groups:
        title = line(group.title, style="bold cyan")
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
        table.add_column("", width=names, overflow="fold")
        for header in headers:
            table.add_column(header, justify="right", no_wrap=True, min_width=7)
        for run in group.runs:
            latency = run.total.latency
            throughputs = [run.throughput, run.samples_per_second] if batched else [run.throughput]
            durations = [*(latency.percentile(q) for q in PERCENTILES), latency.maximum]
            figures = [*map(units.three_digits, throughputs), *map(units.duration, durations), f"{run.total.failed:,}"]
            table.add_row(escaped(run.target), *figures, style=None if run.valid else "red")
        for label, ratio in group.ratios:
            throughput = "" if ratio.generator_limited else units.times(ratio.throughput.estimate)
            p50, p99 = (units.times(each.estimate) for each in (ratio.p50, ratio.p99))
            # INVALID runs have no ratios.
            cells = [throughput, *[""] * batched, p50, "", "", p99] if ratio.meaningful else ["INVALID"]
            table.add_row(escaped(label), *cells, style="dim")
        yield table
