"""Draws an evaluation's pictures as PNG files. The same evaluation always gives the same bytes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from hangtag.evaluation.metrics import Mistake, Result
from hangtag.output import writing
from hangtag.training.data.dataset import Images
from hangtag.training.metrics.class_metrics import MOST_IN_MATRIX, per_class

_COLUMNS, _ROWS = 6, 4


def draw(result: Result, images: Images, name: str, folder: Path, *, negated: bool) -> None:
    """Draw mistakes.png into the folder, and for a single-label model also confusion.png.

    ``negated`` inverts the colours, so that garments, which are bright on black, are shown dark on white.

    Raises:
        OutputError: a file cannot be written.
    """
    if result.confusion is not None:
        title = f"{name}: {result.figures['accuracy']:.2%} of {len(images):,} images"
        _save(confusion_matrix(np.asarray(result.confusion), result.labels, title), folder / "confusion.png")
    known = all(mistake.probability is not None for mistake in result.mistakes)
    which = "most confident" if known else "worst"
    title = f"{name}: the {which} of {len(result.mistakes):,} mistakes in {len(images):,} images"
    _grid(result.mistakes[: _COLUMNS * _ROWS], images, title, "gray_r" if negated else "gray", folder / "mistakes.png")


def confusion_matrix(
    counts: npt.NDArray[np.int64], labels: Sequence[str], title: str, darkest: float | None = None
) -> Figure:
    """Draw counts [true, predicted] as a heat map with a pale diagonal, so that the mistakes stand out. A cell has the
    darkest colour if its share of the row's images reaches ``darkest``; default: the largest share. If there are over
    40 labels, the rows are the 40 with the lowest F1, and the columns are the labels most often predicted instead."""
    wrong = np.where(np.eye(len(labels), dtype=bool), 0, counts)
    rows = columns = [*range(len(labels))]
    if len(labels) > MOST_IN_MATRIX:
        figures = per_class(counts)
        rows = sorted(sorted(rows, key=lambda at: figures[at].f1)[:MOST_IN_MATRIX])
        times = wrong[rows].sum(axis=0)
        columns = sorted(at for at in np.argsort(-times, kind="stable")[:MOST_IN_MATRIX].tolist() if times[at]) or rows
        title += f"\nthe {len(rows)} of {len(labels)} labels with the lowest F1, and the labels predicted instead"
    shares = wrong / np.maximum(1, counts.sum(axis=1, keepdims=True))
    counts, mistakes = (each[np.ix_(rows, columns)] for each in (counts, shares))
    height, width = (max(6.4, 0.45 * len(shown) + 1.5) for shown in (rows, columns))
    figure = Figure(figsize=(width + 1, height), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(mistakes, cmap="OrRd", vmin=0, vmax=darkest or max(1e-9, mistakes.max()))
    for row, column in np.argwhere(counts):
        red, green, blue, _ = shown.to_rgba(mistakes[row, column])
        bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        axes.text(
            column, row, str(counts[row, column]), ha="center", va="center", fontsize=8,
            color="black" if bright else "white", fontweight="bold" if rows[row] == columns[column] else "normal",
        )  # fmt: skip
    axes.set_xticks(range(len(columns)), [labels[at] for at in columns], rotation=45, ha="right", fontsize=9)
    axes.set_yticks(range(len(rows)), [labels[at] for at in rows], fontsize=9)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, loc="left", fontsize=10)
    return figure


def _grid(mistakes: Sequence[Mistake], images: Images, title: str, colours: str, path: Path) -> None:
    """Draw each misclassified image with its true and predicted labels and the probability of the prediction."""
    rows = max(1, -(-len(mistakes) // _COLUMNS))
    figure = Figure(figsize=(_COLUMNS * 1.7, rows * 2.0 + 0.4), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, mistake in zip(grid, mistakes, strict=False):
        text = f"{_words(mistake.true)}\ntaken for {_words(mistake.predicted)}"
        text += "" if mistake.probability is None else f"\nat {mistake.probability:.1%}"
        axes.imshow(images[mistake.image], cmap=colours, vmin=0, vmax=255)
        axes.set_title(text, fontsize=8)
    _save(figure, path)


def _words(labels: str | Sequence[str]) -> str:
    """Return a label, or a label set in lines of two labels, so that the text is no wider than its panel."""
    if isinstance(labels, str):
        return labels
    return ",\n".join(", ".join(labels[at : at + 2]) for at in range(0, len(labels), 2)) or "nothing"


def _save(figure: Figure, path: Path) -> None:
    with writing(path):
        figure.savefig(path, format="png", dpi=120, facecolor="white", metadata={"Software": None})
