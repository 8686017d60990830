import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from hangtag.training.metrics.single_label import evaluate, per_class, worst
from tests.training.metrics.cases import cases


def test_hand_computed_figures() -> None:
    # Probabilities of the true classes: 1/2, 1/4, 3/4; the second sample is taken for class 0.
    logits = np.log(np.array([[2, 1, 1], [2, 1, 1], [1, 6, 1]], np.float32))
    figures = evaluate(logits, np.array([0, 2, 1], np.uint8))
    assert figures.accuracy == pytest.approx(2 / 3)
    assert figures.loss == pytest.approx(math.log(2 * 4 * 4 / 3) / 3, rel=1e-6)
    assert figures.confusion == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_equal_logits_cost_the_logarithm_of_the_number_of_classes() -> None:
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


def test_the_worst_samples_by_hand() -> None:
    probabilities = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.01, 0.99]])
    logits, classes = np.log(probabilities).astype(np.float32), np.array([0, 1, 0, 1], np.uint8)
    first, second = worst(logits, classes, 2)
    assert (first.image, first.true, first.predicted) == (1, 1, 0)
    assert first.probability == pytest.approx(0.9)
    assert first.loss == pytest.approx(-math.log(0.1))
    assert second.image == 2
    assert second.loss == pytest.approx(-math.log(0.2))
    assert [sample.image for sample in worst(logits, classes, 9)] == [1, 2, 0, 3]
