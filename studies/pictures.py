"""Draw pictures for pages, as PNG files with few colours. Equal figures give equal pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from hangtag.page.series import paper_colours
from studies.page import ROOT

COLOURS = paper_colours()
"""Colours for curves that do not belong to a model. `hangtag.page.series.looks` gives each model its own colour."""
MOST_CONFUSED = 0.15
"""If this share of a label's images got the same wrong label, a confusion matrix shows the darkest colour."""


@dataclass(frozen=True)
class Picture:
    """A picture file and the function that draws the picture.

    Args:
        file: The file's path from the repository's root, such as studies/shipped/learning-curves.png.
        draw: Draws the figure.
        colours: The number of colours in the file. A file with few colours is small.
    """

    file: str
    draw: Callable[[], Figure]
    colours: int = 32

    def __str__(self) -> str:
        return self.file

    def image(self) -> Image.Image:
        """Return the picture in the form in which it is stored."""
        drawn = BytesIO()
        self.draw().savefig(drawn, dpi=100, facecolor="white")
        # With a palette, the picture has a fraction of the bytes, and looks the same.
        return Image.open(drawn).convert("RGB").quantize(self.colours, dither=Image.Dither.NONE)

    def write(self) -> None:
        self.image().save(ROOT / self.file, optimize=True)


def finish(axes: Axes, title: str = "", *, grid: Literal["both", "x", "y"] = "both") -> None:
    """Give a panel the common style: a title on the left, a pale grid, and no frame at the top and on the right."""
    if title:
        axes.set_title(title, loc="left", fontsize=10)
    axes.grid(axis=grid, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def confusion_matrix(confusion: Sequence[Sequence[int]], labels: Sequence[str], name: str) -> Figure:
    """Draw the number of images for each pair of a true and a predicted label. A pale diagonal emphasises mistakes.

    In every picture, a colour shows the same share of the true label's images, up to MOST_CONFUSED.

    Args:
        confusion: The number of images by [true label, predicted label].
        labels: The names of the labels.
        name: The model's name, for the title.
    """
    counts = np.asarray(confusion)
    mistakes = np.where(np.eye(len(labels), dtype=bool), 0, counts / counts.sum(axis=1, keepdims=True))
    figure = Figure(figsize=(6.6, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mistakes, cmap="OrRd", vmin=0, vmax=MOST_CONFUSED)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            dark = mistakes[row, column] > 0.6 * MOST_CONFUSED
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
