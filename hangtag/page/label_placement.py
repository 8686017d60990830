"""Places labels next to their points, where they cover no line, no mark and no other label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

# The estimated width and height of a character, as shares of the font's size, because the page's font is not known
# here.
_WIDTH, _HEIGHT = 0.62, 0.9
_GAP = 3.0  # The distance between a mark and its label, in points of the figure (1/72 inch).
# The directions from a mark to its label, (across, up), as shares of the distance: above, below, right and left, then
# the corners.
_DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))


@dataclass(frozen=True)
class Label:
    """A text next to a point."""

    text: str
    x: float  # The point's position, in data coordinates.
    y: float
    radius: float = 2.0  # The radius of the mark at the point, in points of the figure (1/72 inch).
    size: float = 9.0  # The font's size, in points.
    colour: str = "black"


def place(axes: Axes, labels: Sequence[Label]) -> list[Bbox]:
    """Draw each label in the direction where it covers the fewest marks, lines and labels.

    Call this function last, when everything else is drawn and the axes' scales and limits are set.

    Returns:
        The box of each label, in pixels.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # Compute the layout, so that data coordinates can be converted to pixels.
    pixels = figure.dpi / 72
    lines = [line.get_transform().transform_path(line.get_path()) for line in axes.get_lines()]
    points = [axes.transData.transform((label.x, label.y)) for label in labels]
    taken = [
        _box(x, y, 2 * label.radius, 2 * label.radius, pixels) for (x, y), label in zip(points, labels, strict=True)
    ]
    frame = axes.get_window_extent()

    def cost(box: Bbox) -> tuple[bool, int]:
        outside = not (frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1))
        crossed = sum(line.intersects_bbox(box, filled=False) for line in lines)
        return outside, box.count_overlaps(taken) + crossed

    placed = []
    for label, (x, y) in zip(labels, points, strict=True):
        box = min(_boxes(label, x, y, pixels), key=cost)
        taken.append(box)
        placed.append(box)
        offset = (((box.x0 + box.x1) / 2 - x) / pixels, ((box.y0 + box.y1) / 2 - y) / pixels)
        axes.annotate(
            label.text, (label.x, label.y), offset, textcoords="offset points", ha="center", va="center",
            fontsize=label.size, color=label.colour, zorder=4,
        )  # fmt: skip
    return placed


def _boxes(label: Label, x: float, y: float, pixels: float) -> Iterator[Bbox]:
    """Yield the possible boxes of a label, in pixels."""
    width, height = len(label.text) * label.size * _WIDTH, label.size * _HEIGHT
    for across, up in _DIRECTIONS:
        distance = (label.radius if 0 in (across, up) else label.radius * 0.7) + _GAP
        right, above = across * (distance + width / 2), up * (distance + height / 2)
        yield _box(x + right * pixels, y + above * pixels, width, height, pixels)


def _box(x: float, y: float, width: float, height: float, pixels: float) -> Bbox:
    """Return the box, in pixels, that is centred on a pixel and has this width and height in points."""
    return Bbox.from_bounds(x - width * pixels / 2, y - height * pixels / 2, width * pixels, height * pixels)
