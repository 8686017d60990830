import numpy as np
import pytest

from hangtag.evaluation.cascade.curve import Point, curve
from hangtag.evaluation.cascade.route_text import sent_on
from hangtag.evaluation.errors import EvaluationError

CLASSES = np.array([0, 1, 0, 1])
# Right and sure, right and unsure, wrong and unsure, wrong and sure.
FIRST = np.array([[0.95, 0.05], [0.4, 0.6], [0.3, 0.7], [0.81, 0.19]])
SECOND = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
THIRD = np.array([[0.5, 0.5], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])


def test_each_threshold_sends_on_what_the_first_model_is_less_sure_of() -> None:
    tried = curve([FIRST, SECOND], CLASSES)
    assert tried.alone == [0.5, 1.0]
    points = {point.threshold: (point.sent_on, point.accuracy) for point in tried.points}
    assert points[0.0] == (0, 0.5)
    assert points[0.65] == (0.25, 0.5)
    assert points[0.75] == (0.5, 0.75)
    assert points[0.9] == (0.75, 1.0)
    assert points[1.0] == (1.0, 1.0)
    assert [point.threshold for point in tried.shown(tried.points[3])] == [0.015, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99]


def test_of_three_models_the_same_threshold_decides_at_each_but_the_last() -> None:
    tried = curve([FIRST, SECOND, THIRD], CLASSES)
    assert tried.alone == [0.5, 1.0, 0.75]
    points = {point.threshold: point for point in tried.points}
    # The second sample stops at the second model, whose 0.8 is enough; the third goes through all, and gets it wrong.
    assert points[0.75] == Point(0.75, (1.0, 0.5, 0.25), 0.5)
    assert points[1.0] == Point(1.0, (1.0, 1.0, 1.0), 0.75)
    for lower, higher in zip(tried.points, tried.points[1:], strict=False):
        assert all(few <= many for few, many in zip(lower.reached, higher.reached, strict=True))


def test_what_is_not_a_number_goes_on_as_on_the_server() -> None:
    first = FIRST.copy()
    first[0] = np.nan
    assert curve([first, SECOND], CLASSES).points[0].reached == (1.0, 0.25)


def test_the_cost_counts_each_model_by_the_share_that_reaches_it() -> None:
    assert Point(0.9, (1.0, 0.5, 0.1), 0.9).cost([1.0, 4.0, 10.0]) == pytest.approx((1 + 2 + 1) / 10)


@pytest.mark.parametrize(("lose", "threshold"), [(0.0, 0.815), (0.25, 0.705), (0.5, 0.0)])
def test_the_lowest_threshold_that_loses_no_more_is_chosen(lose: float, threshold: float) -> None:
    assert curve([FIRST, SECOND], CLASSES).cheapest(lose).threshold == threshold


def test_that_none_is_good_enough_is_an_error() -> None:
    first = np.array([[1.0, 0.0]] * 4)  # sure of everything, so that nothing ever goes on
    with pytest.raises(EvaluationError, match=r"every threshold loses more than 0\.10%: at best, at 0, 50\.00% "):
        curve([first, SECOND], CLASSES).cheapest(0.001)


def test_what_goes_on_is_a_clause() -> None:
    assert sent_on(["a", "b"], Point(0.9, (1.0, 0.168), 0.95)) == "16.8% go on to b"
    three = Point(0.9, (1.0, 0.168, 0.134), 0.95)
    assert sent_on(["a", "b", "c"], three) == "16.8% go on to b and 13.4% to c"
