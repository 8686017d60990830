"""A chart's label overlaps no line, mark or other label if there is room for it in any direction from its point."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from hangtag.page.label_placement import Label, place

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("end", [(1.0, 2.0), (2.0, 1.0), (1.0, 0.0), (0.0, 1.0), (2.0, 2.0), (0.0, 0.0)])
def test_a_label_keeps_off_the_line_that_leaves_its_point(end: tuple[float, float]) -> None:
    axes = Figure().add_subplot(xlim=(-1, 3), ylim=(-1, 3))
    axes.plot([1, end[0]], [1, end[1]])
    (box,) = place(axes, [Label("label", 1, 1)])
    assert box.count_contains(axes.transData.transform(np.linspace((1, 1), end, 500))) == 0
    (centre,) = axes.transData.transform([(1, 1)])
    assert np.hypot(*(centre - box.get_points().mean(axis=0))) < 56


def test_labels_of_close_points_keep_off_each_other_and_inside() -> None:
    axes = Figure().add_subplot(xlim=(0, 100), ylim=(0, 100))
    boxes = place(axes, [Label("first", 50, 50), Label("second", 52, 50), Label("corner", 99, 99)])
    assert not boxes[0].overlaps(boxes[1])
    assert axes.get_window_extent().contains(*boxes[2].max)
    assert [text.get_text() for text in axes.texts] == ["first", "second", "corner"]
