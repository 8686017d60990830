"""``hangtag runs`` lists, shows and compares training runs, as tables and as JSON, without importing torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from hangtag.commands import models_view
from hangtag.errors import UserError
from hangtag.export.repository import inventory
from hangtag.extras import needs
from hangtag.options import models_option, runs_option
from hangtag.output import require_writable, write_text
from hangtag.printable import escaped
from hangtag.training.report import tables
from hangtag.training.runs.config import flat, key_of
from hangtag.training.runs.run import Run

Published = Mapping[tuple[object, ...], Sequence[str]]
"""The exported versions, such as "lstm 3", keyed by the run from which they were exported."""
_models = models_option("The model repository with the exported versions.")
_json = click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output, for a program.")
_html = click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page with the learning curves. For a single run, the page also shows mistakes, recipe and "
    "provenance.",
)


@click.group()
def runs() -> None:
    """List, show and compare training runs: their settings, figures and learning curves."""


@runs.command("list")
@runs_option
@_models
@_json
def list_runs(runs: Path, models: Path, as_json: bool) -> None:
    """List every run: its recipe, data, seed, epochs, accuracy, minutes, and the versions that were exported from it.

    The table shows the figures of the epoch that was best on the validation split.
    """
    found = Run.all(runs)
    published = _published(models)
    if as_json:
        models_view.print_json([summary(run, published) for run in found])
    elif found:
        models_view.print_plain(listing(found, published))
    else:
        click.echo(f"{runs} has no runs. 'hangtag train MODEL' trains a model.")


@runs.command()
@click.argument("run")
@_html
@runs_option
@_models
@_json
def show(run: str, html: Path | None, runs: Path, models: Path, as_json: bool) -> None:
    """Show a run: its settings, and the figures of each epoch.

    RUN is a run's folder, a run's name under --runs, or a model's name, which stands for its latest finished run.

    \b
    Examples:
      hangtag runs show lstm
      hangtag runs show lstm-study-seed1 --html reports/lstm.html
    """
    found = Run.find(run, runs)
    published = _published(models)
    if as_json:
        models_view.print_json(summary(found, published) | {"config": found.config, "metrics": found.metrics})
    else:
        models_view.print_plain(description(found, published))
        models_view.print_plain(epochs(found))
    if html:
        _write_page([found], published, html)


@runs.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN RUN...")
@_html
@runs_option
@_models
@_json
def compare(names: Sequence[str], html: Path | None, runs: Path, models: Path, as_json: bool) -> None:
    """Show the figures of several runs side by side, and the settings in which the runs differ.

    \b
    Examples:
      hangtag runs compare lstm-study-seed0 lstm-study-seed1
      hangtag runs compare lstm cnn --html reports/curves.html
    """
    if len(names) < 2:
        raise click.UsageError("name two or more runs. 'hangtag runs list' lists the runs.")
    found = [Run.find(name, runs) for name in names]
    published = _published(models)
    if as_json:
        documents = [summary(run, published) for run in found]
        models_view.print_json({"runs": documents, "differences": tables.differences(found)})
    else:
        models_view.print_plain(comparison(found, published))
    if html:
        _write_page(found, published, html)


def _published(models: Path) -> Published:
    """Map each run to the versions that were exported from it. If there is no repository, the map is empty."""
    published: dict[tuple[object, ...], list[str]] = {}
    try:
        entries = inventory.versions(models) if models.is_dir() else []
    except UserError as error:
        click.echo(f"exported versions are not shown: {escaped(str(error))}", err=True)
        entries = []
    for entry in entries:
        training = entry.json("training")
        if isinstance(training, dict) and isinstance(training.get("config"), dict):
            published.setdefault(key_of(training["config"]), []).append(f"{entry.name} {entry.version}")
    return published


def _write_page(found: Sequence[Run], published: Published, path: Path) -> None:
    require_writable(path)
    with needs("export", "--html"):
        from hangtag.training.report.run_page import comparison_page, run_page
    versions = [exported_as(run, published) for run in found]
    write_text(str(path), run_page(found[0], versions[0]) if len(found) == 1 else comparison_page(found, versions))


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
    """Make a table with a row for each finished epoch, in which the best epoch is marked."""
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
    """Make a table with a column for each run, with the figures followed by the settings that differ."""
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
    """List the versions that were exported from a run."""
    return list(published.get(key_of(run.config), ()))
