"""Render what `hangtag runs` shows: tables for a terminal, and objects for --json."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from hangtag.training.report import tables
from hangtag.training.runs.config import flat, key_of
from hangtag.training.runs.run import Run

Published = Mapping[tuple[object, ...], Sequence[str]]
"""The exported versions, such as "lstm 3", by the key of the run that they were made of."""


def listing(runs: Sequence[Run], published: Published) -> Table:
    """Make a table with a row for each run."""
    table = Table(box=None, pad_edge=False)
    texts = ("run", "model", "recipe", "data", "exported as")
    for column in (*texts[:4], "seed", "epochs", "validation accuracy", "test accuracy", "minutes", texts[4]):
        table.add_column(column, justify="left" if column in texts else "right")
    for run in runs:
        if run.trouble:
            table.add_row(escape(run.folder.name), f"[red]{escape(run.trouble)}[/]")
            continue
        table.add_row(escape(run.folder.name), *map(escape, tables.cells(run, exported_as(run, published)).values()))
    return table


def description(run: Run, published: Published) -> Table:
    """Make the table of `hangtag runs show`."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("run", escape(str(run.folder)))
    for key, value in tables.cells(run, exported_as(run, published)).items():
        table.add_row(key, escape(value))
    for key, value in flat(run.config).items():
        if key not in ("model", "recipe.name", "dataset", "seed", "recipe.epochs"):
            table.add_row(key, escape(tables.text(value)))
    return table


def epochs(run: Run) -> Table:
    """Make a table with a row for each finished epoch; the best one is marked."""
    rows, best_epoch = run.metrics["epochs"], tables.overview(run)["best_epoch"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    table.add_column("")
    for row in rows:
        best = "best" if row.get("epoch") == best_epoch else ""
        table.add_row(*(tables.text(row.get(column)) for column in columns), best)
    return table


def comparison(runs: Sequence[Run], published: Published) -> Table:
    """Make a table with a column for each run: the figures, then the settings that differ."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for run in runs:
        table.add_column(escape(run.folder.name))
    for key in tables.cells(runs[0]):
        table.add_row(key, *(escape(tables.cells(run, exported_as(run, published))[key]) for run in runs))
    for key, values in tables.differences(runs).items():
        table.add_row(key, *(escape(tables.text(value)) for value in values))
    return table


def summary(run: Run, published: Published) -> dict[str, Any]:
    """Build the JSON object of one run in the list."""
    if run.trouble:
        return {"run": run.folder.name, "folder": str(run.folder), "trouble": run.trouble}
    return {
        "run": run.folder.name,
        "folder": str(run.folder),
        **tables.overview(run),
        "exported_as": exported_as(run, published),
    }


def exported_as(run: Run, published: Published) -> list[str]:
    """The versions that were exported from a run."""
    return list(published.get(key_of(run.config), ()))
