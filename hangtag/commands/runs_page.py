"""Write the learning curves of runs as one self-contained HTML page, without scripts and without other files."""

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hangtag.commands import runs_view
from hangtag.page.drawing import colour, drawing
from hangtag.page.environment import environment
from hangtag.training.runs.overview import FIGURES, RunOverview


def page(runs: Sequence[RunOverview], published: runs_view.Published) -> str:
    """Draw the learning curves of one or several runs, above a table of their figures and of settings that differ."""
    figures = dict.fromkeys(run.figure for run in runs)
    pictures = [(f"{FIGURES[figure]} by epoch", _curves(runs, figure, percent=True)) for figure in figures]
    cells = [runs_view.cells(run, published) for run in runs]
    rows = {key: [each[key] for each in cells] for key in cells[0]}
    return (
        environment("hangtag.commands")
        .get_template("runs.html.j2")
        .render(
            names=[run.folder.name for run in runs],
            pictures=[*pictures, ("loss by epoch", _curves(runs, "loss", percent=False))],
            rows={**rows, **(runs_view.differences(runs) if len(runs) > 1 else {})},
        )
    )


def _curves(runs: Sequence[RunOverview], figure: str, *, percent: bool) -> Markup:
    """Validation as a solid line, training as a dashed one; a dot at the epoch whose weights were kept.

    Of a single epoch both are dots, and training's is hollow.
    """
    with drawing(f"curves-{figure}", f"{figure} by epoch") as picture:
        axes = picture.axes
        for number, run in enumerate(runs):
            for split, style in (("validation", "-"), ("train", "--")):
                points = [(row["epoch"], row[key]) for row in run.rows if (key := f"{split}_{figure}") in row]
                if points:
                    label = f"{run.folder.name}, {'training' if split == 'train' else split}"
                    (line,) = axes.plot(
                        *zip(*points, strict=True), style, color=colour(number), label=label, linewidth=1.5
                    )
                    if len(points) == 1:  # no line can be drawn
                        line.set(marker="o", fillstyle="none" if split == "train" else "full")
                best = [point for point in points if split == "validation" and point[0] == run.best_epoch]
                if best:
                    axes.plot(*best[0], "o", color=colour(number))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    return Markup(picture.svg)  # noqa: S704  (drawn here)
