import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from hangtag.training.metrics.severity import distance_at_k, least_expected_distance, mean_severity
from hangtag.training.metrics.single_label import evaluate
from tests.training.metrics.cases import cases

DISTANCES = np.array([[0, 0.25, 1], [0.25, 0, 0.5], [1, 0.5, 0]])


def test_severity_counts_mistakes_only() -> None:
    assert mean_severity([[100, 3, 1], [0, 50, 0], [0, 0, 7]], DISTANCES) == pytest.approx((3 * 0.25 + 1) / 4)
    assert mean_severity([[1, 0, 0], [0, 2, 0], [0, 0, 3]], DISTANCES) is None


@given(cases())
def test_severity_is_the_distance_at_one_of_the_mistakes(
    case: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]],
) -> None:
    logits, classes = case
    k = logits.shape[1]
    places = np.arange(k) / k
    distances = np.abs(places[:, None] - places)
    figures = evaluate(logits, classes)
    severity = mean_severity(figures.confusion, distances)
    per_sample = [distances[true, row.argmax()] for row, true in zip(logits, classes, strict=True)]
    assert distance_at_k(logits, classes, distances, 1) == pytest.approx(np.mean(per_sample))
    wrong = [one for one, row, true in zip(per_sample, logits, classes, strict=True) if row.argmax() != true]
    assert severity == (pytest.approx(np.mean(wrong)) if wrong else None)


def test_distance_at_k_by_hand() -> None:
    logits = np.array([[3, 2, 1], [1, 2, 3]], np.float32)
    classes = np.array([0, 0], np.uint8)
    assert distance_at_k(logits, classes, DISTANCES, 1) == pytest.approx((0 + 1) / 2)
    assert distance_at_k(logits, classes, DISTANCES, 2) == pytest.approx(((0 + 0.25) / 2 + (1 + 0.25) / 2) / 2)
    assert distance_at_k(logits, classes, DISTANCES, 3) == pytest.approx((0 + 0.25 + 1) / 3)


def test_the_least_expected_distance_may_be_another_class_than_the_most_probable() -> None:
    """Class 0 is more probable than 1 and than 2, which are near each other and far from 0."""
    distances = np.array([[0, 1, 1], [1, 0, 0.1], [1, 0.1, 0]])
    logits = np.log(np.array([[0.4, 0.35, 0.25], [0.9, 0.05, 0.05]], np.float32))
    assert least_expected_distance(logits, distances).tolist() == [1, 0]


@given(cases())
def test_with_equal_distances_the_decision_is_the_most_probable_class(
    case: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]],
) -> None:
    logits, _ = case
    rows = np.arange(len(logits))
    nearest = least_expected_distance(logits, 1 - np.eye(logits.shape[1]))
    np.testing.assert_allclose(logits[rows, nearest], logits.max(axis=1), atol=1e-3)


def test_huge_logits_do_not_overflow() -> None:
    assert least_expected_distance(np.array([[3e38, -3e38]], np.float32), np.array([[0.0, 1], [1, 0]])).tolist() == [0]
