"""Renders the comparison of two saved load tests, named before and after, as tables, a page and JSON."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.text import Text
from typing_extensions import TypedDict

from hangtag.page.series import looks
from hangtag.printable import escaped
from hangtag.serving.loadtest.comparison.compare import (
    MACHINE,
    Comparison,
    SavedResults,
    differences,
    machine_differences,
)
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.record import to_json
from hangtag.serving.loadtest.report import charts
from hangtag.serving.loadtest.report.html import page_template
from hangtag.serving.loadtest.report.table import RunGroup, line, tables

SCHEMA = "hangtag.loadtest.comparison/1"


class ComparisonDocument(TypedDict):
    """The content of the JSON file of a comparison."""

    schema: str
    before: SavedResults
    after: SavedResults
    setting_differences: dict[str, dict[str, str]]
    environment_differences: dict[str, dict[str, str]]
    comparisons: list[Comparison]


def groups_of(compared: Sequence[tuple[Run, Run, Comparison]]) -> list[RunGroup]:
    """Return the two runs of each comparison. The targets of these runs are named "before" and "after"."""
    return [
        RunGroup(
            f"{comparison.target}, {comparison.load.kind}, {comparison.load}",
            (replace(before, target="before"), replace(after, target="after")),
            (("after / before", comparison),),
        )
        for before, after, comparison in compared
    ]


def render_differences(before: SavedResults, after: SavedResults, console: Console) -> None:
    """Print how the models, samples, options and environments differ. A separate warning names differences of the
    machines."""
    found = _differences(before, after)
    if not found:
        console.print(Text("Both runs have the same models, samples, options and environment."))
    for label, values in found.items():
        if label not in MACHINE:
            difference = escaped(f"{label}: {values['before']} before, {values['after']} after")
            console.print(Text.assemble(("differs ", "bold yellow"), difference))
    console.print()


def _differences(before: SavedResults, after: SavedResults) -> dict[str, dict[str, str]]:
    return differences(before.settings | before.environment, after.settings | after.environment)


def render_tables(groups: Sequence[RunGroup], console: Console) -> None:
    """Print a table for each target and load, with the figures before and after, and their ratio."""
    for group, table in zip(groups, tables(groups, console.width), strict=True):
        console.print(table)
        console.print(line(group.ratios[0][1].sentence))
        console.print()


def render_json(before: SavedResults, after: SavedResults, groups: Sequence[RunGroup]) -> str:
    """Return the comparison as JSON: the two files, the differences of their settings, and each comparison."""
    document = ComparisonDocument(
        schema=SCHEMA,
        before=before,
        after=after,
        setting_differences=differences(before.settings, after.settings),
        environment_differences=differences(before.environment, after.environment),
        comparisons=[comparison for group in groups for _, comparison in group.ratios],
    )
    return to_json(ComparisonDocument, document)


def render_page(before: SavedResults, after: SavedResults, groups: Sequence[RunGroup]) -> str:
    """Return the comparison as a self-contained HTML page."""
    return page_template("comparison.html.j2").render(
        before=before,
        after=after,
        differences=_differences(before, after),
        machine_differs=bool(machine_differences(before.environment, after.environment)),
        looks=looks(("before", "after")),
        groups=groups,
        charts=charts,
        scale=charts.latency_range(run for group in groups for run in group.runs),
    )
