"""Labels keep off lines, marks and other labels, wherever a direction is left."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from hangtag.page.labels import Box, Label, place

pytestmark = pytest.mark.quick

POINTS = 72 / 100
"""Of a pixel in matplotlib's default resolution."""


@pytest.mark.parametrize("end", [(1.0, 2.0), (2.0, 1.0), (1.0, 0.0), (0.0, 1.0), (2.0, 2.0), (0.0, 0.0)])
def test_a_label_keeps_off_the_line_that_leaves_its_point(end: tuple[float, float]) -> None:
    axes = Figure().add_subplot(xlim=(-1, 3), ylim=(-1, 3))
    axes.plot([1, end[0]], [1, end[1]])
    (box,) = place(axes, [Label("label", 1, 1)])
    line = axes.transData.transform(np.linspace((1, 1), end, 500)) * POINTS
    (centre,) = axes.transData.transform([(1, 1)]) * POINTS
    assert box.covered(line) == 0
    assert np.hypot(*(centre - ((box.left + box.right) / 2, (box.bottom + box.top) / 2))) < 40


def overlap(one: Box, other: Box) -> bool:
    apart = one.right <= other.left or other.right <= one.left or one.top <= other.bottom or other.top <= one.bottom
    return not apart


def test_labels_of_close_points_keep_off_each_other_and_inside() -> None:
    axes = Figure().add_subplot(xlim=(0, 100), ylim=(0, 100))
    boxes = place(axes, [Label("first", 50, 50), Label("second", 52, 50), Label("corner", 99, 99)])
    frame = axes.get_window_extent().extents * POINTS  # type: ignore[operator]
    assert not overlap(boxes[0], boxes[1])
    assert boxes[2].right <= frame[2]
    assert boxes[2].top <= frame[3]
    assert [text.get_text() for text in axes.texts] == ["first", "second", "corner"]
