"""``hangtag runs`` lists, shows and compares training runs, as tables and as JSON, without importing torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from hangtag.errors import UserError
from hangtag.export.repository import inventory
from hangtag.extras import needs
from hangtag.options import json_flag, models_option, runs_option
from hangtag.output import write_text
from hangtag.printable import escaped
from hangtag.tables import facts, print_json, print_plain, table
from hangtag.training.report import tables
from hangtag.training.runs.config import flat, key_of
from hangtag.training.runs.run import Run

_models = models_option("The model repository with the exported versions.")
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
@json_flag
def list_runs(runs: Path, models: Path, as_json: bool) -> None:
    """List every run: its recipe, data, seed, epochs, accuracy, minutes, and the versions that were exported from it.

    The table shows the figures of the epoch that was best on the validation split.
    """
    listed = _with_versions(Run.all(runs), models)
    if as_json:
        print_json([_summary(run, versions) for run, versions in listed.items()])
        return
    if not listed:
        click.echo(f"{runs} has no runs. 'hangtag train MODEL' trains a model.")
        return
    right = ("seed", "epochs", "validation accuracy", "test accuracy", "minutes")
    rows = [
        (run.folder.name, *([Text(escaped(run.trouble), "red")] if run.trouble else tables.cells(run, own).values()))
        for run, own in listed.items()
    ]
    print_plain(table(("run", "model", "recipe", "data", *right, "exported as"), rows, right))


@runs.command()
@click.argument("run")
@_html
@runs_option
@_models
@json_flag
def show(run: str, html: Path | None, runs: Path, models: Path, as_json: bool) -> None:
    """Show a run: its settings, and the figures of each epoch.

    RUN is a run's folder, a run's name under --runs, or a model's name, which stands for its latest finished run.

    \b
    Examples:
      hangtag runs show lstm
      hangtag runs show lstm-study-seed1 --html reports/lstm.html
    """
    ((one, versions),) = _with_versions([Run.find(run, runs)], models).items()
    if as_json:
        print_json(_summary(one, versions) | {"config": one.config, "metrics": one.metrics})
    else:
        shown_elsewhere = ("model", "recipe.name", "dataset", "seed", "recipe.epochs")
        settings = {key: tables.text(value) for key, value in flat(one.config).items() if key not in shown_elsewhere}
        print_plain(facts([("run", str(one.folder)), *tables.cells(one, versions).items(), *settings.items()]))
        epochs, best_epoch = one.metrics["epochs"], tables.overview(one)["best_epoch"]
        columns = list(dict.fromkeys(key for epoch in epochs for key in epoch))
        headers = [column.replace("_", " ") for column in columns]
        rows = [
            [*(tables.text(epoch.get(key)) for key in columns), "best" if epoch.get("epoch") == best_epoch else ""]
            for epoch in epochs
        ]
        print_plain(table([*headers, ""], rows, right=headers))
    if html:
        with needs("export", "--html"):
            from hangtag.training.report.run_page import run_page
        write_text(str(html), run_page(one, versions))


@runs.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN RUN...")
@_html
@runs_option
@_models
@json_flag
def compare(names: Sequence[str], html: Path | None, runs: Path, models: Path, as_json: bool) -> None:
    """Show the figures of several runs side by side, and the settings in which the runs differ.

    \b
    Examples:
      hangtag runs compare lstm-study-seed0 lstm-study-seed1
      hangtag runs compare lstm cnn --html reports/curves.html
    """
    if len(names) < 2:
        raise click.UsageError("name two or more runs. 'hangtag runs list' lists the runs.")
    compared = _with_versions([Run.find(name, runs) for name in names], models)
    differences = tables.differences([*compared])
    if as_json:
        summaries = [_summary(run, versions) for run, versions in compared.items()]
        print_json({"runs": summaries, "differences": differences})
    else:
        cells = [tables.cells(run, versions) for run, versions in compared.items()]
        rows = [[key, *(each[key] for each in cells)] for key in cells[0]]
        rows += [[key, *map(tables.text, values)] for key, values in differences.items()]
        print_plain(table(["", *(run.folder.name for run in compared)], rows))
    if html:
        with needs("export", "--html"):
            from hangtag.training.report.run_page import comparison_page
        write_text(str(html), comparison_page([*compared], [*compared.values()]))


def _with_versions(found: Sequence[Run], models: Path) -> dict[Run, list[str]]:
    """Map each run to the versions that were exported from it, such as "lstm 3"."""
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
    return {run: [] if run.trouble else published.get(key_of(run.config), []) for run in found}


def _summary(run: Run, versions: Sequence[str]) -> dict[str, Any]:
    shown = {"run": run.folder.name, "folder": str(run.folder)}
    if run.trouble:
        return {**shown, "trouble": run.trouble}
    return {**shown, **tables.overview(run), "exported_as": versions}
