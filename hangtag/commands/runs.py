"""``hangtag runs``: list, show and compare training runs. Reads their files without torch."""

from collections.abc import Sequence
from pathlib import Path

import click

from hangtag.commands import models_view, runs_view
from hangtag.errors import UserError
from hangtag.export.repository import inventory
from hangtag.extras import needs
from hangtag.options import models_option, runs_option
from hangtag.output import require_writable, write_text
from hangtag.printable import escaped
from hangtag.training.report import tables
from hangtag.training.runs.config import key_of
from hangtag.training.runs.run import Run

_models = models_option("The model repository where exported versions are looked for.")
_json = click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output, for a program.")
_html = click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page with the learning curves; of a single run with its mistakes, recipe and provenance too.",
)


@click.group()
def runs() -> None:
    """List, show and compare training runs: their settings, figures and learning curves."""


@runs.command("list")
@runs_option
@_models
@_json
def list_runs(runs: Path, models: Path, as_json: bool) -> None:
    """List every run: recipe, data, seed, epochs, accuracy, minutes, and as which version it was exported.

    The figures are those of the epoch that is best on the validation split.
    """
    found = Run.all(runs)
    published = _published(models)
    if as_json:
        models_view.print_json([runs_view.summary(run, published) for run in found])
    elif found:
        models_view.print_plain(runs_view.listing(found, published))
    else:
        click.echo(f"{runs} holds no run; 'hangtag train MODEL' trains one.")


@runs.command()
@click.argument("run")
@_html
@runs_option
@_models
@_json
def show(run: str, html: Path | None, runs: Path, models: Path, as_json: bool) -> None:
    """Show a run: its settings, and the figures of each epoch.

    RUN is a run's folder, its name under --runs, or a model's name, which stands for its latest finished run.

    \b
    Examples:
      hangtag runs show lstm
      hangtag runs show lstm-study-seed1 --html reports/lstm.html
    """
    found = Run.find(run, runs)
    published = _published(models)
    if as_json:
        models_view.print_json(runs_view.summary(found, published) | {"config": found.config, "metrics": found.metrics})
    else:
        models_view.print_plain(runs_view.description(found, published))
        models_view.print_plain(runs_view.epochs(found))
    if html:
        _write_page([found], published, html)


@runs.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN RUN...")
@_html
@runs_option
@_models
@_json
def compare(names: Sequence[str], html: Path | None, runs: Path, models: Path, as_json: bool) -> None:
    """Compare runs: their figures side by side, and the settings in which they differ.

    \b
    Examples:
      hangtag runs compare lstm-study-seed0 lstm-study-seed1
      hangtag runs compare lstm cnn --html reports/curves.html
    """
    if len(names) < 2:
        raise click.UsageError("name two runs or more; 'hangtag runs list' lists them.")
    found = [Run.find(name, runs) for name in names]
    published = _published(models)
    if as_json:
        documents = [runs_view.summary(run, published) for run in found]
        models_view.print_json({"runs": documents, "differences": tables.differences(found)})
    else:
        models_view.print_plain(runs_view.comparison(found, published))
    if html:
        _write_page(found, published, html)


def _published(models: Path) -> runs_view.Published:
    """The exported versions by the run that they were made of; none where there is no repository."""
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


def _write_page(found: Sequence[Run], published: runs_view.Published, path: Path) -> None:
    require_writable(path)
    with needs("export", "--html"):
        from hangtag.training.report.page import comparison_page, run_page
    versions = [runs_view.exported_as(run, published) for run in found]
    write_text(str(path), run_page(found[0], versions[0]) if len(found) == 1 else comparison_page(found, versions))
