import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hangtag.training.metrics.single_label import distance_at_k, evaluate, mean_severity, nearest_expected, per_class


def test_hand_computed_figures() -> None:
    # Probabilities of the true classes: 1/2, 1/4, 3/4; the second sample is taken for class 0.
    logits = np.log(np.array([[2, 1, 1], [2, 1, 1], [1, 6, 1]], np.float32))
    figures = evaluate(logits, np.array([0, 2, 1], np.uint8))
    assert figures.accuracy == pytest.approx(2 / 3)
    assert figures.loss == pytest.approx(math.log(2 * 4 * 4 / 3) / 3, rel=1e-6)
    assert figures.confusion == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_an_undecided_network_loses_the_logarithm_of_the_number_of_classes() -> None:
    figures = evaluate(np.zeros((4, 10), np.float32), np.array([0, 1, 2, 3], np.uint8))
    assert figures.loss == pytest.approx(math.log(10))
    assert figures.accuracy == 0.25  # a tie goes to the first class


def test_huge_logits_neither_overflow_nor_vanish() -> None:
    figures = evaluate(np.array([[3e38, -3e38], [1e4, 0]], np.float32), np.array([0, 1], np.uint8))
    assert figures.loss == pytest.approx(5_000)
    assert figures.accuracy == 0.5


def test_figures_are_plain_numbers_for_json() -> None:
    figures = evaluate(np.eye(3, dtype=np.float32), np.array([0, 1, 2], np.uint8))
    assert type(figures.accuracy) is float
    assert type(figures.loss) is float
    assert all(type(cell) is int for row in figures.confusion for cell in row)


@st.composite
def cases(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    n, k = draw(st.integers(1, 20)), draw(st.integers(2, 12))
    finite = st.floats(-1e4, 1e4, width=32)
    logits = draw(hnp.arrays(np.float32, (n, k), elements=finite))
    return logits, draw(hnp.arrays(np.uint8, n, elements=st.integers(0, k - 1)))


@given(cases())
def test_figures_equal_a_plain_loop(case: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]) -> None:
    logits, classes = case
    n, k = logits.shape
    hits, loss, confusion = 0, 0.0, [[0] * k for _ in range(k)]
    for row, true in zip(logits.tolist(), classes.tolist(), strict=True):
        predicted = row.index(max(row))
        hits += predicted == true
        confusion[true][predicted] += 1
        loss += max(row) + math.log(sum(math.exp(value - max(row)) for value in row)) - row[true]
    figures = evaluate(logits, classes)
    assert figures.accuracy == pytest.approx(hits / n)
    assert figures.loss == pytest.approx(loss / n, rel=1e-9, abs=1e-9)
    assert figures.confusion == confusion


# How good each class is, and how bad mistakes are.

DISTANCES = np.array([[0, 0.25, 1], [0.25, 0, 0.5], [1, 0.5, 0]])


def test_per_class_by_hand() -> None:
    first, second, third = per_class([[6, 2, 0], [3, 1, 0], [0, 0, 0]])
    assert (first.precision, first.recall, first.f1, first.support) == pytest.approx((6 / 9, 6 / 8, 12 / 17, 8))
    assert (second.precision, second.recall, second.f1, second.support) == pytest.approx((1 / 3, 1 / 4, 2 / 7, 4))
    assert (third.precision, third.recall, third.f1, third.support) == (0, 0, 0, 0)  # never there, never predicted
    assert type(first.precision) is float
    assert type(first.support) is int


@given(cases())
def test_per_class_agrees_with_accuracy(case: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]) -> None:
    logits, classes = case
    figures = evaluate(logits, classes)
    each = per_class(figures.confusion)
    assert sum(one.support for one in each) == len(classes)
    assert sum(one.recall * one.support for one in each) / len(classes) == pytest.approx(figures.accuracy)
    for one in each:  # the harmonic mean
        both = one.precision + one.recall
        assert one.f1 == pytest.approx(2 * one.precision * one.recall / both if both else 0)


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


def test_distance_of_a_short_list_by_hand() -> None:
    logits = np.array([[3, 2, 1], [1, 2, 3]], np.float32)
    classes = np.array([0, 0], np.uint8)
    assert distance_at_k(logits, classes, DISTANCES, 1) == pytest.approx((0 + 1) / 2)
    assert distance_at_k(logits, classes, DISTANCES, 2) == pytest.approx(((0 + 0.25) / 2 + (1 + 0.25) / 2) / 2)
    assert distance_at_k(logits, classes, DISTANCES, 3) == pytest.approx((0 + 0.25 + 1) / 3)


def test_the_nearest_on_average_may_be_another_than_the_likeliest() -> None:
    """0 is likelier than either of 1 and 2, which are near to each other and far from it."""
    distances = np.array([[0, 1, 1], [1, 0, 0.1], [1, 0.1, 0]])
    logits = np.log(np.array([[0.4, 0.35, 0.25], [0.9, 0.05, 0.05]], np.float32))
    assert nearest_expected(logits, distances).tolist() == [1, 0]


@given(cases())
def test_where_all_labels_are_as_far_apart_the_likeliest_is_nearest(
    case: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]],
) -> None:
    logits, _ = case
    rows = np.arange(len(logits))
    nearest = nearest_expected(logits, 1 - np.eye(logits.shape[1]))
    np.testing.assert_allclose(logits[rows, nearest], logits.max(axis=1), atol=1e-3)


def test_of_huge_logits_the_nearest_is_told_too() -> None:
    assert nearest_expected(np.array([[3e38, -3e38]], np.float32), np.array([[0.0, 1], [1, 0]])).tolist() == [0]
