"""Writes a run, or several runs side by side, as one self-contained HTML page.

The page shows no mistakes on the test split, because the test split must not influence the choice of settings.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator, PercentFormatter

from hangtag.errors import UserError
from hangtag.page.drawing import colour, drawing
from hangtag.page.templates import environment, png_address
from hangtag.training.data import fashion_mnist, sources
from hangtag.training.data.dataset import Images
from hangtag.training.metrics.class_metrics import MOST_IN_MATRIX, per_class
from hangtag.training.report import tables
from hangtag.training.runs import run_data
from hangtag.training.runs.run import Run

_MOST_FREQUENT = 40
_SHOWN_ELSEWHERE = ("model", "seed", "dataset", "limit", "recipe", "tensorboard", "command")


def run_page(run: Run, exported_as: Sequence[str] = (), validation: Images | None = None) -> str:
    """Return the page of one run. ``exported_as`` names the model versions that were exported from the run. If
    ``validation`` is None, the validation split's images are read."""
    summary = run.metrics.get("summary", {})
    rest = {key: value for key, value in run.config.items() if key not in _SHOWN_ELSEWHERE}
    labels = run_data.labels(summary)
    matrix = _mistakes(summary, labels)
    images, why_none = _worst_images(run, summary, labels, validation) if matrix else ([], "")
    return _render(
        [run],
        {},
        run=tables.cells(run, exported_as),
        parameters=summary.get("parameters"),
        best_epoch=tables.overview(run)["best_epoch"],
        matrix=matrix,
        labels=labels,
        images=images,
        why_none=why_none,
        recipe=tables.in_words(run.config["recipe"]),
        provenance={key: words for key, words in tables.in_words(rest).items() if words not in ("-", "")},
    )


def comparison_page(runs: Sequence[Run], exported_as: Sequence[Sequence[str]]) -> str:
    """Return the page of several runs: the curves, and below them a table of metrics and differing settings."""
    cells = [tables.cells(run, versions) for run, versions in zip(runs, exported_as, strict=True)]
    rows = {key: [each[key] for each in cells] for key in cells[0]}
    return _render(runs, {**rows, **tables.differences(runs)}, run=None)


def _render(runs: Sequence[Run], rows: Mapping[str, Sequence[Any]], **content: Any) -> str:
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    pictures: list[tuple[str, Mapping[str, str], Formatter]] = [
        *(
            (f"{tables.FIGURES[figure]} by epoch", _both_splits(figure), PercentFormatter(1, decimals=None))
            for figure in dict.fromkeys(tables.overview(run)["figure"] for run in runs)
        ),
        ("loss by epoch", _both_splits("loss"), plain),
        ("learning rate by epoch", {"learning_rate": ""}, plain),
    ]
    return (
        environment("hangtag.training.report")
        .get_template("runs.html.j2")
        .render(
            names=[run.folder.name for run in runs],
            pictures=[(title, drawn) for title, keys, axis in pictures if (drawn := _curves(runs, title, keys, axis))],
            rows=rows,
            **content,
        )
    )


def _both_splits(figure: str) -> Mapping[str, str]:
    return {f"validation_{figure}": "validation", f"train_{figure}": "training"}


def _mistakes(summary: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any] | None:
    """Describe the mistakes on the validation split. Returns None if the run has no confusion matrix.

    "matrix" is [true][predicted], or empty if there are more than MOST_IN_MATRIX labels. "deepest" is the count of the
    most frequent mistake, and "frequent" has the count, true label and predicted label of the most frequent mistakes.
    "figures" has each label's metrics, without those of the best labels, whose number is "left_out".
    """
    kept = summary.get("validation", {}).get("confusion")
    if not isinstance(kept, list):
        return None
    counts = np.asarray(kept, np.int64)
    mistakes = np.where(np.eye(len(labels), dtype=bool), 0, counts)
    pairs = np.argsort(-mistakes, axis=None, kind="stable")[:_MOST_FREQUENT].tolist()
    places = [divmod(pair, len(labels)) for pair in pairs]
    figures = list(zip(labels, per_class(counts), strict=True))
    if left_out := max(0, len(labels) - MOST_IN_MATRIX):
        figures = sorted(figures, key=lambda row: row[1].f1)[:MOST_IN_MATRIX]
    return {
        "matrix": [] if left_out else counts.tolist(),
        "deepest": max(1, int(mistakes.max())),
        "frequent": [(int(mistakes[at]), labels[at[0]], labels[at[1]]) for at in places if mistakes[at]],
        "figures": dict(figures),
        "left_out": left_out,
    }


def _worst_images(
    run: Run, summary: Mapping[str, Any], labels: Sequence[str], validation: Images | None
) -> tuple[list[tuple[str, str, str]], str]:
    """Return the source, name and caption of the images with the highest loss, or the reason why there are none."""
    worst = summary.get("worst")
    if not isinstance(worst, list):
        return [], "An earlier version of hangtag trained this run, and did not record these images."
    if validation is None:
        try:
            validation = _validation_images(run)
        except UserError as error:
            return [], f"The images cannot be read: {error}"
    negated = run_data.image(run.config).fit == "garment"
    return [
        (
            png_address(validation[entry["image"]], negated=negated),
            f"validation image {entry['image']}",
            f"{labels[entry['true']]}, "
            + (f"taken for {labels[entry['predicted']]}" if entry["predicted"] != entry["true"] else "recognised,")
            + f" at {entry['probability']:.1%}; loss {entry['loss']:.2f}",
        )
        for entry in worst
    ], ""


def _validation_images(run: Run) -> Images:
    """Read the run's validation images, without a download. Raises a UserError if they cannot be read."""
    folder, name = run.config.get("data_dir"), str(run.config.get("dataset", fashion_mnist.NAME))
    if sources.kind_of(name) is None:
        found = fashion_mnist.locate(Path(folder) if folder else None, download=False)
        return fashion_mnist.load(found).validation.images
    return run_data.load(run.config).validation.first(run.config.get("limit")).images


def _curves(runs: Sequence[Run], title: str, keys: Mapping[str, str], axis: Formatter) -> Markup | None:
    """Plot the metrics with these keys over the epochs. Returns None if no run has such metrics."""
    highest = 0.0
    with drawing(f"curves-{title}", title) as picture:
        axes = picture.axes
        for number, run in enumerate(runs):
            best_epoch = tables.overview(run)["best_epoch"]
            for key, name in keys.items():
                points = {row["epoch"]: row[key] for row in run.metrics["epochs"] if key in row}
                label = ", ".join(filter(None, [run.folder.name if len(runs) > 1 else "", name]))
                train = key.startswith("train_")
                if points:
                    highest = max(highest, *points.values())
                    look: dict[str, Any] = {"color": colour(number), "linewidth": 1.5, "label": label or None}
                    if len(points) == 1:  # a line needs two points
                        look |= {"marker": "o", "fillstyle": "none" if train else "full"}
                    axes.plot(list(points), list(points.values()), "--" if train else "-", **look)
                if key.startswith("validation_") and best_epoch in points:
                    axes.plot(best_epoch, points[best_epoch], "o", color=colour(number))
        if "learning_rate" in keys:
            axes.set_ylim(0, highest * 1.08 or 1)
        axes.yaxis.set_major_formatter(axis)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=8)
    return Markup(picture.svg) if highest else None  # noqa: S704  (drawn here)
