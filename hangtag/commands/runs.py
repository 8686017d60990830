"""``hangtag runs`` lists, shows and compares training runs, as tables and as JSON, without importing torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from hangtag.errors import UserError
from hangtag.export.repository import inventory
from hangtag.extras import needs
from hangtag.options import models_option, runs_option
from hangtag.output import require_writable, write_text
from hangtag.printable import escaped
from hangtag.tables import facts, print_json, print_plain, table
from hangtag.training.report import tables
from hangtag.training.runs.config import flat, key_of
from hangtag.training.runs.run import Run

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
    versions = _versions(found, models)
    if as_json:
        print_json(list(map(_summary, found, versions)))
    elif found:
        print_plain(_listing(found, versions))
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
    versions = _versions([found], models)
    if as_json:
        print_json(_summary(found, versions[0]) | {"config": found.config, "metrics": found.metrics})
    else:
        print_plain(_description(found, versions[0]))
        print_plain(_epochs(found))
    if html:
        _write_page([found], versions, html)


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
    versions = _versions(found, models)
    if as_json:
        print_json({"runs": list(map(_summary, found, versions)), "differences": tables.differences(found)})
    else:
        print_plain(_comparison(found, versions))
    if html:
        _write_page(found, versions, html)


def _versions(found: Sequence[Run], models: Path) -> list[list[str]]:
    """For each run, list the versions that were exported from it, such as "lstm 3"."""
    try:
        entries = inventory.versions(models) if models.is_dir() else []
    except UserError as error:
        click.echo(f"exported versions are not shown: {escaped(str(error))}", err=True)
        entries = []
    published: dict[tuple[object, ...], list[str]] = {}
    for entry in entries:
        training = entry.json("training")
        if isinstance(training, dict) and isinstance(training.get("config"), dict):
            published.setdefault(key_of(training["config"]), []).append(f"{entry.name} {entry.version}")
    return [[] if run.trouble else published.get(key_of(run.config), []) for run in found]


def _write_page(found: Sequence[Run], versions: Sequence[Sequence[str]], path: Path) -> None:
    require_writable(path)
    with needs("export", "--html"):
        from hangtag.training.report.run_page import comparison_page, run_page
    write_text(str(path), run_page(found[0], versions[0]) if len(found) == 1 else comparison_page(found, versions))


def _listing(found: Sequence[Run], versions: Sequence[Sequence[str]]) -> Table:
    """Make a table with a row for each run."""
    right = ("seed", "epochs", "validation accuracy", "test accuracy", "minutes")
    rows = [
        (run.folder.name, *((Text(escaped(run.trouble), "red"),) if run.trouble else tables.cells(run, own).values()))
        for run, own in zip(found, versions, strict=True)
    ]
    return table(("run", "model", "recipe", "data", *right, "exported as"), rows, right)


def _description(run: Run, versions: Sequence[str]) -> Table:
    shown_elsewhere = ("model", "recipe.name", "dataset", "seed", "recipe.epochs")
    settings = {key: value for key, value in flat(run.config).items() if key not in shown_elsewhere}
    lines = {"run": str(run.folder), **tables.cells(run, versions)}
    return facts([*lines.items(), *((key, tables.text(value)) for key, value in settings.items())])


def _epochs(run: Run) -> Table:
    """Make a table with a row for each finished epoch, in which the best epoch is marked."""
    epochs, best_epoch = run.metrics["epochs"], tables.overview(run)["best_epoch"]
    columns = list(dict.fromkeys(key for epoch in epochs for key in epoch))
    headers = [column.replace("_", " ") for column in columns]
    rows = [
        [*(tables.text(epoch.get(column)) for column in columns), "best" if epoch.get("epoch") == best_epoch else ""]
        for epoch in epochs
    ]
    return table([*headers, ""], rows, right=headers)


def _comparison(found: Sequence[Run], versions: Sequence[Sequence[str]]) -> Table:
    """Make a table with a column for each run: first the metrics, then the settings that differ."""
    cells = [tables.cells(run, own) for run, own in zip(found, versions, strict=True)]
    figures = [[key, *(each[key] for each in cells)] for key in cells[0]]
    settings = [[key, *map(tables.text, values)] for key, values in tables.differences(found).items()]
    return table(["", *(run.folder.name for run in found)], figures + settings)


def _summary(run: Run, versions: Sequence[str]) -> dict[str, Any]:
    """Build the JSON object of one run in the list."""
    shown = {"run": run.folder.name, "folder": str(run.folder)}
    if run.trouble:
        return {**shown, "trouble": run.trouble}
    return {**shown, **tables.overview(run), "exported_as": versions}
