import numpy as np
import pytest

from hangtag.evaluation.errors import EvaluationError
from hangtag.evaluation.threshold import curve

CLASSES = np.array([0, 1, 0, 1])
# Right and sure, right and unsure, wrong and unsure, wrong and sure.
FIRST = np.array([[0.95, 0.05], [0.4, 0.6], [0.3, 0.7], [0.81, 0.19]])
SECOND = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])


def test_each_threshold_sends_on_what_the_first_model_is_less_sure_of() -> None:
    tried = curve(FIRST, SECOND, CLASSES)
    assert (tried.first, tried.second) == (0.5, 1.0)
    points = {point.threshold: (point.sent_on, point.accuracy) for point in tried.points}
    assert points[0.0] == (0, 0.5)
    assert points[0.65] == (0.25, 0.5)
    assert points[0.75] == (0.5, 0.75)
    assert points[0.9] == (0.75, 1.0)
    assert points[1.0] == (1.0, 1.0)


@pytest.mark.parametrize(("lose", "threshold"), [(0.0, 0.815), (0.25, 0.705), (0.5, 0.0)])
def test_the_lowest_threshold_that_loses_no_more_is_chosen(lose: float, threshold: float) -> None:
    assert curve(FIRST, SECOND, CLASSES).cheapest(lose).threshold == threshold


def test_that_none_is_good_enough_is_an_error() -> None:
    first = np.array([[1.0, 0.0]] * 4)  # sure of everything, so that nothing ever goes on
    with pytest.raises(EvaluationError, match=r"every threshold loses more than 0\.10%: at best, at 0, 50\.00% "):
        curve(first, SECOND, CLASSES).cheapest(0.001)
