"""Write a run, or several side by side, as one self-contained HTML page, without scripts and without other files."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hangtag.page.environment import environment
from hangtag.training.data.dataset import Images
from hangtag.training.report import mistakes, tables
from hangtag.training.report.pictures import curves, learning_rates
from hangtag.training.runs.overview import FIGURES, RunOverview


def run_page(run: RunOverview, exported_as: Sequence[str] = (), validation: Images | None = None) -> str:
    """The page of one run: curves, confusion matrix, worst mistakes, recipe and provenance.

    Args:
        run: The run, finished or not.
        exported_as: The versions that were exported from it.
        validation: The validation split's images, if they are in memory; None reads them where needed.
    """
    matrix = mistakes.confusion(run)
    images, why_none = mistakes.worst_images(run, validation) if matrix else ([], "")
    parameters = run.metrics["summary"].get("parameters") if run.is_finished else None
    return _render(
        [run],
        {},
        run=tables.cells(run, exported_as),
        parameters=None if parameters is None else f"{parameters:,}",
        best_epoch=run.best_epoch,
        matrix=matrix,
        labels=mistakes.labels(run),
        images=images,
        why_none=why_none,
        recipe=tables.recipe(run),
        provenance=tables.provenance(run),
    )


def comparison_page(runs: Sequence[RunOverview], exported_as: Sequence[Sequence[str]]) -> str:
    """The page of several runs: their curves, above a table of their figures and of settings that differ."""
    cells = [tables.cells(run, versions) for run, versions in zip(runs, exported_as, strict=True)]
    rows = {key: [each[key] for each in cells] for key in cells[0]}
    return _render(runs, {**rows, **tables.differences(runs)}, run=None)


def _render(runs: Sequence[RunOverview], rows: Mapping[str, Sequence[Any]], **content: Any) -> str:
    figures = dict.fromkeys(run.figure for run in runs)
    pictures: list[tuple[str, Markup | None]] = [
        *((f"{FIGURES[figure]} by epoch", curves(runs, figure, percent=True)) for figure in figures),
        ("loss by epoch", curves(runs, "loss", percent=False)),
        ("learning rate by epoch", learning_rates(runs)),
    ]
    return (
        environment("hangtag.training.report")
        .get_template("runs.html.j2")
        .render(
            names=[run.folder.name for run in runs],
            pictures=[(heading, picture) for heading, picture in pictures if picture],
            rows=rows,
            **content,
        )
    )
