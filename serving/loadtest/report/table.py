"""Renders results for a terminal: a table per load with a line per target, then the findings in sentences."""

import re
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hangtag.printable import escaped
from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.compare import Comparison
from hangtag.serving.loadtest.comparison.gate_outcomes import GateOutcome
from hangtag.serving.loadtest.comparison.transports import transport_costs
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load

_FIGURE = re.compile(r"\d[\d,]*(?:\.\d+)?")
PERCENTILES = (50.0, 90.0, 95.0, 99.0)


def render(
    results: Results, comparisons: Sequence[Comparison], console: Console, outcomes: Sequence[GateOutcome] = ()
) -> None:
    """Print the tables, the findings and the problems."""
    for load in results.loads:
        at_load = tuple(comparison for comparison in comparisons if comparison.load == load)
        console.print(_table(results, load, at_load))
        for run in results.under(load):
            if run.lateness_note:
                console.print(line(f"{run.target}: {run.lateness_note}", style="dim"))
        console.print()
    for name, accuracy in results.accuracies.items():
        low, high = accuracy.interval
        share = f"{accuracy.share:.2%} of {accuracy.total:,} samples (95 %: {low:.2%} to {high:.2%})"
        console.print(line(f"{name} is right on {share}."))
    verdicts = [run.verdict for run in results.runs if run.verdict]
    for sentence in (
        *verdicts,
        *(comparison.sentence for comparison in comparisons),
        *(cost.sentence for cost in transport_costs(results)),
        *(peak.sentence for peak in results.peaks),
    ):
        console.print(line(sentence))
    for check in results.caching:
        if not check.problem:
            console.print(line(check.sentence))
    for ceiling in results.ceilings:
        rate = f"{units.three_digits(ceiling.throughput)} calls/s over {ceiling.protocol}"
        console.print(Text(f"The generator's own ceiling: {rate}, {ceiling.load}.", style="dim"))
    for sent in _sent(results.sources):
        console.print(line(sent, style="dim"))
    if results.warm_up_queries:
        warm_up = f"Before these, {units.count(results.warm_up_queries)} queries of warm-up were sent and discarded."
        console.print(Text(warm_up, style="dim"))
    if results.generator_share is not None:
        console.print(Text(results.generator_share, style="dim"))
    if results.others_sentence:
        console.print(line(results.others_sentence, style="dim"))
    _problems(results, console)
    if results.valid:
        console.print(
            Text.assemble(
                ("VALID ", "bold green"),
                f"every run measured what it was to measure{', but some are doubtful' * results.doubtful}.",
            )
        )
    for outcome in outcomes:
        style = "bold red" if outcome.failed else "green"
        console.print(Text.assemble(("FAILED " if outcome.failed else "passed ", style), escaped(outcome.sentence)))


def line(text: str, style: str = "") -> Text:
    """Return a line to print; control characters, which a server's messages and model names may have, are escaped."""
    return Text(escaped(text), style=style)


def _sent(sources: Mapping[str, str]) -> list[str]:
    """Where the samples of each target come from; in one sentence where all have the same source."""
    if len(set(sources.values())) == 1:
        return [f"Sent: {next(iter(sources.values()))}."]
    return [f"Sent to {name}: {source}." for name, source in sources.items()]


def _problems(results: Results, console: Console) -> None:
    for problem in results.problems:
        console.print(Text.assemble(("INVALID ", "bold red"), escaped(f"{problem}.")))
    for text in _combined([(run, problem) for run in results.runs for problem in run.problems]):
        console.print(Text.assemble(("INVALID ", "bold red"), escaped(text)))
    details = {f"{status}: {message}" for run in results.runs for status, message in run.total.details.items()}
    for detail in sorted(details):
        console.print(line(f"  {detail}", style="dim"))
    doubts = [(run, run.doubt) for run in results.runs if run.doubt]
    notes = [(run, note) for run in results.runs for note in run.notes]
    for word, remarks in (("DOUBTFUL ", doubts), ("note ", notes)):
        for text in _combined(remarks):
            console.print(Text.assemble((word, "bold yellow"), escaped(text)))


def _combined(remarks: Sequence[tuple[Run, str]]) -> list[str]:
    """One line for remarks on several runs that differ in their figures alone, with the range of each figure."""
    alike: dict[str, list[tuple[Run, str]]] = {}
    for run, text in remarks:
        alike.setdefault(_FIGURE.sub("#", text), []).append((run, text))
    lines = []
    for same in alike.values():
        figures = zip(*(_FIGURE.findall(text) for _, text in same), strict=True)
        words = _FIGURE.split(same[0][1])
        text = "".join(map("".join, zip(words, [*map(_range, figures), ""], strict=True)))
        lines.append(f"{'; '.join(f'{run.target}, {run.load}' for run, _ in same)}: {text}")
    return lines


def _range(figures: Sequence[str]) -> str:
    low, *_, high = sorted((*figures, figures[0]), key=lambda figure: float(figure.replace(",", "")))
    return low if low == high else f"{low} to {high}"


def _table(results: Results, load: Load, comparisons: tuple[Comparison, ...]) -> Table:
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
    for header in [*rates, *(f"p{q:g}" for q in PERCENTILES), "max", "failed"]:
        table.add_column(header, justify="right", no_wrap=True, min_width=7)
    for run in results.under(load):
        table.add_row(*cells(run, batched), style=None if run.valid else "red")
    for comparison in comparisons:
        table.add_row(_label(comparison), *ratio_cells(comparison, batched), style="dim")
    return table


def _label(comparison: Comparison) -> str:
    return escaped(f"{comparison.target} / {comparison.baseline}")


def _labels(results: Results) -> list[str]:
    names = results.scenario.names
    return [*names, *(f"{name} / {names[0]}" for name in names[1:])]


def ratio_cells(comparison: Comparison, batched: bool) -> list[str]:
    """The cells of a row of ratios, under those of `cells` but the first; no ratio of an INVALID run."""
    if not comparison.meaningful:
        return ["INVALID"]
    throughput = "" if comparison.generator_limited else units.times(comparison.throughput.estimate)
    ratios = [throughput, *([""] if batched else [])]
    return [*ratios, units.times(comparison.p50.estimate), "", "", units.times(comparison.p99.estimate)]


def cells(run: Run, batched: bool) -> list[str]:
    """The cells of a run's row: its target, rates, percentiles, maximum and failures."""
    total = run.total
    return [
        escaped(run.target),
        units.three_digits(run.throughput),
        *([units.three_digits(run.samples_per_second)] if batched else []),
        *(units.duration(total.latency.percentile(q)) for q in PERCENTILES),
        units.duration(total.latency.maximum),
        units.count(total.failed),
    ]
