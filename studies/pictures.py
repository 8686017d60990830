"""Draws the pictures of pages: PNG files of few colours, whose pixels are the same for the same figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from studies.page import ROOT

FOLDER = ROOT / "docs/images"
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#9c6b4e")


@dataclass(frozen=True)
class Picture:
    """A file in docs/images and the function that draws it.

    Args:
        file: The file's name, such as learning-curves.png.
        draw: Draws the figure.
        dpi: Pixels per inch of the figure's size.
        colours: The size of the file's palette. Few colours make small files.
        grey: Whether the picture is stored in shades of grey.
    """

    file: str
    draw: Callable[[], Figure]
    dpi: int = 100
    colours: int = 32
    grey: bool = False

    def __str__(self) -> str:
        return self.file

    def image(self) -> Image.Image:
        """The picture as it is stored."""
        drawn = BytesIO()
        self.draw().savefig(drawn, dpi=self.dpi, facecolor="white")
        return few_colours(Image.open(drawn).convert("L" if self.grey else "RGB"), self.colours)

    def write(self, folder: Path = FOLDER) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.image().save(folder / self.file, optimize=True)


def few_colours(image: Image.Image, colours: int) -> Image.Image:
    """The picture with a palette of `colours` entries, which takes a fraction of the bytes and looks the same."""
    return image.quantize(colours, dither=Image.Dither.NONE)


def accuracy_axes(axes: Axes, epochs: int, title: str) -> None:
    """Title and axes of a panel that shows accuracy over epochs."""
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("epoch")
    axes.set_xticks(range(1, epochs + 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def confusion_matrix(confusion: Sequence[Sequence[int]], labels: Sequence[str], name: str) -> Figure:
    """How often each label was predicted for each true label. The diagonal is pale, so that mistakes stand out.

    Args:
        confusion: Counts [true label, predicted label].
        labels: Their names.
        name: The model's name, for the title.
    """
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
    return figure
