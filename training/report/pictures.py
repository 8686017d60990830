"""Draw the curves of runs as SVG text that is embedded in the page."""

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from hangtag.page.drawing import colour, drawing
from hangtag.training.runs.overview import RunOverview


def curves(runs: Sequence[RunOverview], figure: str, *, percent: bool) -> Markup:
    """Validation as a solid line, training as a dashed one; a dot at the epoch whose weights were kept.

    Of a single epoch both are dots, and training's is hollow.
    """
    with drawing(f"curves-{figure}", f"{figure} by epoch") as picture:
        axes = picture.axes
        for number, run in enumerate(runs):
            for split, style in (("validation", "-"), ("train", "--")):
                points = _points(run, f"{split}_{figure}")
                if points:
                    name = "training" if split == "train" else split
                    label = name if len(runs) == 1 else f"{run.folder.name}, {name}"
                    (line,) = axes.plot(
                        *zip(*points, strict=True), style, color=colour(number), label=label, linewidth=1.5
                    )
                    if len(points) == 1:  # no line can be drawn
                        line.set(marker="o", fillstyle="none" if split == "train" else "full")
                best = [point for point in points if split == "validation" and point[0] == run.best_epoch]
                if best:
                    axes.plot(*best[0], "o", color=colour(number))
        _finish(axes, legend=bool(axes.lines))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    return Markup(picture.svg)  # noqa: S704  (drawn here)


def learning_rates(runs: Sequence[RunOverview]) -> Markup | None:
    """The rate of each epoch's last step; None for runs of an earlier hangtag, which did not record it."""
    points = [_points(run, "learning_rate") for run in runs]
    if not any(points):
        return None
    with drawing("curves-learning-rate", "learning rate by epoch") as picture:
        for number, (run, rates) in enumerate(zip(runs, points, strict=True)):
            if rates:
                style = "-" if len(rates) > 1 else "o"
                picture.axes.plot(
                    *zip(*rates, strict=True), style, color=colour(number), label=run.folder.name, linewidth=1.5
                )
        picture.axes.set_ylim(0, max(rate for rates in points for _, rate in rates) * 1.08)
        picture.axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        _finish(picture.axes, legend=len(runs) > 1)
    return Markup(picture.svg)  # noqa: S704  (drawn here)


def _points(run: RunOverview, key: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[key]) for row in run.rows if key in row]


def _finish(axes: Axes, *, legend: bool) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    if legend:
        axes.legend(frameon=False, fontsize=8)
