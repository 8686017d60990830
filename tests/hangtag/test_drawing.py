"""Labels keep off lines, marks and other labels, wherever a direction is left."""

import numpy as np
import pytest

from hangtag.page.drawing import drawing
from hangtag.page.labels import Box, Label, place


def line_points(start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    return np.linspace(start, end, 500)


@pytest.mark.parametrize("end", [(1.0, 2.0), (2.0, 1.0), (1.0, 0.0), (0.0, 1.0), (2.0, 2.0), (0.0, 0.0)])
def test_a_label_keeps_off_the_line_that_leaves_its_point(end: tuple[float, float]) -> None:
    with drawing("test", "test") as picture:
        axes = picture.axes
        axes.set_xlim(-1, 3)
        axes.set_ylim(-1, 3)
        axes.plot([1, end[0]], [1, end[1]])
        (box,) = place(axes, [Label("label", 1, 1)])
        to_points = 72 / picture.figure.dpi
        line = axes.transData.transform(line_points((1, 1), end)) * to_points
        (centre,) = axes.transData.transform([(1, 1)]) * to_points
    assert box.covered(line) == 0
    assert np.hypot(*(centre - ((box.left + box.right) / 2, (box.bottom + box.top) / 2))) < 40


def overlap(one: Box, other: Box) -> bool:
    apart = one.right <= other.left or other.right <= one.left or one.top <= other.bottom or other.top <= one.bottom
    return not apart


def test_labels_of_close_points_keep_off_each_other_and_inside() -> None:
    with drawing("test", "test") as picture:
        axes = picture.axes
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        boxes = place(axes, [Label("first", 50, 50), Label("second", 52, 50), Label("corner", 99, 99)])
        frame = axes.get_window_extent().extents * (72 / picture.figure.dpi)  # type: ignore[operator]
    assert not overlap(boxes[0], boxes[1])
    assert boxes[2].right <= frame[2]
    assert boxes[2].top <= frame[3]
    assert all(label in picture.svg for label in ("first", "second", "corner"))
