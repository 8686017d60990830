"""Places labels beside their points, where they cover no line, no mark and no other label."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

Points = npt.NDArray[np.float64]  # [n, 2] in points of the figure, 1/72 inch.
# A character is about this much of the font's size wide and high; the page's font is not known here.
_WIDTH, _HEIGHT = 0.62, 0.9
_GAP = 3.0  # Points between a mark and its label.
# Above, below, right and left, then the corners: (across, up), as shares of the distance.
_DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))


@dataclass(frozen=True)
class Label:
    """A text beside a point."""

    text: str
    x: float  # Of the point, in the axes' data.
    y: float
    radius: float = 2.0  # Of the mark at the point, in points.
    size: float = 9.0  # Of the font.
    colour: str = "black"


@dataclass(frozen=True)
class Box:
    """A rectangle in points of the figure."""

    left: float
    bottom: float
    right: float
    top: float

    def covered(self, points: Points) -> int:
        """The number of points inside."""
        x, y = points[:, 0], points[:, 1]
        return int(((x > self.left) & (x < self.right) & (y > self.bottom) & (y < self.top)).sum())

    def outline(self) -> Points:
        """Points all over the rectangle."""
        x, y = np.meshgrid(np.linspace(self.left, self.right, 12), np.linspace(self.bottom, self.top, 5))
        return np.column_stack([x.ravel(), y.ravel()])


def place(axes: Axes, labels: Sequence[Label]) -> list[Box]:
    """Draw each label in the direction where it covers least of what is drawn already.

    Call it when everything else is drawn and the axes' scales and limits are set.

    Returns:
        Where each label is.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # Lays the axes out, so that data can be turned into points.
    to_points = 72 / figure.dpi
    frame = Box(*(np.asarray(axes.get_window_extent().extents) * to_points))
    centres = [axes.transData.transform((label.x, label.y)) * to_points for label in labels]
    taken = [_drawn(axes, to_points), *(_mark(centre, label) for centre, label in zip(centres, labels, strict=True))]
    boxes = []
    for label, centre in zip(labels, centres, strict=True):
        box = min(_boxes(label, centre), key=lambda box: _cost(box, np.concatenate(taken), frame))
        taken.append(box.outline())
        boxes.append(box)
        middle = ((box.left + box.right) / 2 - centre[0], (box.bottom + box.top) / 2 - centre[1])
        axes.annotate(
            label.text, (label.x, label.y), middle, textcoords="offset points", ha="center", va="center",
            fontsize=label.size, color=label.colour, zorder=4,
        )  # fmt: skip
    return boxes


def _boxes(label: Label, centre: Points) -> Iterator[Box]:
    """Where the label can be."""
    width, height = len(label.text) * label.size * _WIDTH, label.size * _HEIGHT
    for across, up in _DIRECTIONS:
        distance = (label.radius if 0 in (across, up) else label.radius * 0.7) + _GAP
        x, y = centre[0] + across * (distance + width / 2), centre[1] + up * (distance + height / 2)
        yield Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _cost(box: Box, taken: Points, frame: Box) -> tuple[bool, int]:
    outside = box.left < frame.left or box.right > frame.right or box.bottom < frame.bottom or box.top > frame.top
    return outside, box.covered(taken)


def _mark(centre: Points, label: Label) -> Points:
    angles = np.linspace(0, 2 * np.pi, 16)
    circle = np.column_stack([np.cos(angles), np.sin(angles)]) * label.radius
    return np.concatenate([centre + circle, centre[None]])


def _drawn(axes: Axes, to_points: float) -> Points:
    """Points of all lines, at most one apart."""
    pieces = [np.empty((0, 2))]
    for line in axes.get_lines():
        corners = line.get_transform().transform(np.asarray(line.get_xydata())) * to_points
        for start, end in itertools.pairwise(corners):
            if np.isfinite(start).all() and np.isfinite(end).all():
                count = 2 + int(np.hypot(*(end - start)))
                pieces.append(np.linspace(start, end, count))
    return np.concatenate(pieces)
