"""Renders the comparison of two saved load tests, before and after, as a table, a page and JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hangtag.printable import escaped
from hangtag.serving.loadtest.comparison.compare import Comparison
from hangtag.serving.loadtest.comparison.saved_results import MACHINE, SavedResults
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.report import pictures
from hangtag.serving.loadtest.report.html import page_template
from hangtag.serving.loadtest.report.json_writer import comparison_document
from hangtag.serving.loadtest.report.table import PERCENTILES, cells, line, ratio_cells

SCHEMA = "hangtag.loadtest.comparison/1"
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class SavedPair:
    """One target under one load, in both files. The runs' targets are named "before" and "after"."""

    comparison: Comparison
    before: Run
    after: Run

    @property
    def title(self) -> str:
        return f"{self.comparison.target}, {self.comparison.load.kind}, {self.comparison.load}"


def pairs_of(before: SavedResults, after: SavedResults, comparisons: Sequence[Comparison]) -> list[SavedPair]:
    """Return the two runs behind each comparison, in its order."""

    def run(saved: SavedResults, comparison: Comparison, name: str) -> Run:
        measured = saved.run(comparison.target, comparison.load)
        assert measured is not None  # both files have what is compared
        return replace(measured, blocks=tuple(replace(block, target=name) for block in measured.blocks))

    return [SavedPair(each, run(before, each, BEFORE), run(after, each, AFTER)) for each in comparisons]


def differences_of(before: SavedResults, after: SavedResults) -> dict[str, tuple[str, str]]:
    """What differs between the two in what was measured, how, and in which environment: both values, by label."""
    return before.setting_differences(after) | before.environment_differences(after.environment)


def render_differences(before: SavedResults, after: SavedResults, console: Console) -> None:
    """Print what differs, a line each, or that nothing does; without the machine, which a warning is about."""
    differences = differences_of(before, after)
    if not differences:
        console.print(Text("The same models, samples, options and environment."))
    for label, (one, other) in differences.items():
        if label not in MACHINE:
            difference = escaped(f"{label}: {one} {BEFORE}, {other} {AFTER}")
            console.print(Text.assemble(("differs ", "bold yellow"), difference))
    console.print()


def render_table(pairs: Sequence[SavedPair], console: Console) -> None:
    """Print a table for each target and load: before, after, and what the one is of the other."""
    for pair in pairs:
        table = Table(
            title=line(pair.title, style="bold cyan"),
            title_justify="left",
            box=None,
            pad_edge=False,
            header_style="dim",
        )
        table.add_column("", min_width=len("after / before"))
        for header in ["calls/s", *(f"p{q:g}" for q in PERCENTILES), "max", "failed"]:
            table.add_column(header, justify="right", no_wrap=True, min_width=7)
        for run in (pair.before, pair.after):
            table.add_row(*cells(run, batched=False), style=None if run.valid else "red")
        table.add_row(f"{AFTER} / {BEFORE}", *ratio_cells(pair.comparison, batched=False), style="dim")
        console.print(table)
        console.print(line(pair.comparison.sentence))
        console.print()


def render_json(before: SavedResults, after: SavedResults, pairs: Sequence[SavedPair]) -> str:
    """The comparison as JSON: the two files, what differs in their settings and environments, and each comparison."""
    differences = {
        "setting_differences": before.setting_differences(after),
        "environment_differences": before.environment_differences(after.environment),
    }
    document: dict[str, Any] = {
        "schema": SCHEMA,
        BEFORE: _source(before),
        AFTER: _source(after),
        **{
            name: {label: {BEFORE: values[0], AFTER: values[1]} for label, values in different.items()}
            for name, different in differences.items()
        },
        "comparisons": [comparison_document(pair.comparison) for pair in pairs],
    }
    return json.dumps(document, indent=1, allow_nan=False)


def render_page(before: SavedResults, after: SavedResults, pairs: Sequence[SavedPair]) -> str:
    """The comparison as one self-contained HTML page."""
    names = (BEFORE, AFTER)
    return page_template("comparison.html.j2").render(
        before=before,
        after=after,
        differences=differences_of(before, after),
        series={name: pictures.series_variable(index) for index, name in enumerate(names)},
        pairs=[
            (pair, Markup(pictures.latency_by_percentile([pair.before, pair.after], names)))  # noqa: S704
            for pair in pairs
        ],
        started=lambda saved: datetime.fromisoformat(saved.started).strftime("%d %B %Y, %H:%M UTC"),
        percentiles=PERCENTILES,
        ratios=lambda pair: ratio_cells(pair.comparison, batched=False),
    )


def _source(saved: SavedResults) -> dict[str, Any]:
    return {
        "file": str(saved.file),
        "started": saved.started,
        "environment": saved.environment,
        "accuracies": saved.accuracies,
        "peaks": saved.peaks,
    }
