"""Draw pictures for pages, as PNG files with few colours. The same figure always gives the same pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from studies.page import ROOT


@dataclass(frozen=True)
class Picture:
    """A picture file and the function that draws the picture.

    Args:
        file: The file's path from the repository's root, such as studies/shipped/learning-curves.png.
        draw: Draws the figure.
        colours: The number of colours in the file's palette. A file with few colours is small.
    """

    file: str
    draw: Callable[[], Figure]
    colours: int = 32

    def __str__(self) -> str:
        return self.file

    def image(self) -> Image.Image:
        """Draw the picture, and reduce its colours."""
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
