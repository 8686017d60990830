"""Pictures of how a model learned and what it mistakes for what, as SVG that is the same for the same figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2")


def learning_curves(epochs: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Accuracy over epochs, training (with dropout) and validation, one panel each, one line a model."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, title in zip(
        panels, ("validation_accuracy", "train_accuracy"), ("validation", "training, with dropout"), strict=True
    ):
        for (name, rows), colour in zip(epochs.items(), COLOURS, strict=False):
            values = [row[key] for row in rows]
            axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3.5, color=colour, label=name)
            if key == "validation_accuracy":
                best = int(np.argmax(values))
                axes.plot(best + 1, values[best], marker="o", markersize=9, fillstyle="none", color=colour)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.set_xticks(range(1, max(len(rows) for rows in epochs.values()) + 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy (ring: the epoch that is kept)")
    panels[1].legend(frameon=False, loc="lower right")
    save(figure, path)


def confusion_matrix(confusion: Sequence[Sequence[int]], labels: Sequence[str], name: str, path: Path) -> None:
    """confusion[true][predicted] counts; the diagonal is left pale so that the mistakes show."""
    counts = np.asarray(confusion)
    mistakes = np.where(np.eye(len(labels), dtype=bool), 0, counts)
    figure = Figure(figsize=(6.6, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mistakes, cmap="OrRd", vmin=0, vmax=max(1, mistakes.max()))
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            dark = mistakes[row, column] > 0.6 * mistakes.max()
            weight = "bold" if row == column else "normal"
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, fontweight=weight,
                color="white" if dark else "black",
            )  # fmt: skip
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=9)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(
        f"{name}: {counts.trace() / counts.sum():.2%} of {counts.sum():,} test images", loc="left", fontsize=10
    )
    axes.spines[:].set_visible(False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """As SVG that is the same for the same figure, byte for byte."""
    with mpl.rc_context({"svg.hashsalt": "hangtag", "svg.fonttype": "path"}):
        figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")
