"""Places labels next to their points, where they cover no line, no marker and no other label."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from hangtag.page.drawing import INK

_GAP = 3.0  # The distance between a marker and its label, in typographic points (1/72 inch).
# The directions from a marker to its label, (across, up): above, below, right and left, then the corners.
_DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))


class Label(NamedTuple):
    """A text next to a point (x, y) in data coordinates. Sizes are in typographic points (1/72 inch)."""

    text: str
    x: float
    y: float
    radius: float = 2.0  # the marker's radius
    size: float = 9.0  # the font's size
    colour: str = INK


def place(axes: Axes, labels: Sequence[Label]) -> list[Bbox]:
    """Draw each label in the direction where it covers the fewest markers, lines and labels. Return the labels' boxes
    in pixels. Call this function last, when everything else is drawn and the axes' scales and limits are set."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # Compute the layout, so that data coordinates can be converted to pixels.
    pixels = figure.dpi / 72
    lines = [line.get_transform().transform_path(line.get_path()) for line in axes.get_lines()]
    marks = [Bbox([axes.transData.transform((one.x, one.y))] * 2).padded(one.radius * pixels) for one in labels]
    frame, placed = axes.get_window_extent(), list[Bbox]()

    def cost(box: Bbox) -> tuple[bool, int]:
        outside = not (frame.contains(*box.min) and frame.contains(*box.max))
        crossed = sum(line.intersects_bbox(box, filled=False) for line in lines)
        return outside, box.count_overlaps([*marks, *placed]) + crossed

    for label in labels:
        text = axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", fontsize=label.size,
            color=label.colour, zorder=4,
        )  # fmt: skip
        best = min(_DIRECTIONS, key=lambda direction: cost(_move(text, label.radius, direction)))
        placed.append(_move(text, label.radius, best))
    return placed


def _move(text: Annotation, radius: float, direction: tuple[int, int]) -> Bbox:
    """Move a label away from its marker in this direction, and return the label's box in pixels."""
    across, up = direction
    distance = (radius if 0 in direction else radius * 0.7) + _GAP
    text.set_position((across * distance, up * distance))
    text.set_horizontalalignment(("center", "left", "right")[across])
    text.set_verticalalignment(("center", "bottom", "top")[up])
    return text.get_window_extent()
