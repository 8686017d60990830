"""Compares the metrics for single labels and label sets with hand-computed values, plain loops and other libraries."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize_scalar

from hangtag.training.metrics.calibration import HIGHEST, LOWEST, calibration_error, fit_temperature
from hangtag.training.metrics.class_metrics import (
    evaluate,
    log_probabilities,
    per_class,
    worst,
)
from hangtag.training.metrics.set_metrics import choose_threshold, decide
from hangtag.training.metrics.set_metrics import evaluate as evaluate_sets


@st.composite
def cases(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Random logits with their true classes."""
    n, k = draw(st.integers(1, 20)), draw(st.integers(2, 12))
    finite = st.floats(-1e4, 1e4, width=32)
    logits = draw(hnp.arrays(np.float32, (n, k), elements=finite))
    return logits, draw(hnp.arrays(np.uint8, n, elements=st.integers(0, k - 1)))


def test_huge_logits_neither_overflow_nor_vanish() -> None:
    figures = evaluate(np.array([[3e38, -3e38], [1e4, 0]], np.float32), np.array([0, 1], np.uint8))
    assert figures.loss == pytest.approx(5_000)
    assert figures.accuracy == 0.5


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
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


# The metrics of each class, and the worst samples.


def test_per_class_by_hand() -> None:
    first, second, third = per_class([[6, 2, 0], [3, 1, 0], [0, 0, 0]])
    assert (first.precision, first.recall, first.f1, first.support) == pytest.approx((6 / 9, 6 / 8, 12 / 17, 8))
    assert (second.precision, second.recall, second.f1, second.support) == pytest.approx((1 / 3, 1 / 4, 2 / 7, 4))
    assert (third.precision, third.recall, third.f1, third.support) == (0, 0, 0, 0)  # neither true nor predicted


def test_the_worst_samples_by_hand() -> None:
    probabilities = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.01, 0.99]])
    logits, classes = np.log(probabilities).astype(np.float32), np.array([0, 1, 0, 1], np.uint8)
    first, second = worst(logits, classes, 2)
    assert first == pytest.approx({"image": 1, "true": 1, "predicted": 0, "probability": 0.9, "loss": -math.log(0.1)})
    assert second == pytest.approx({"image": 2, "true": 0, "predicted": 1, "probability": 0.8, "loss": -math.log(0.2)})


# Calibration.

Logits = npt.NDArray[np.float64]
Classes = npt.NDArray[np.uint8]


def drawn(seed: int, scale: float, count: int = 2_000) -> tuple[Logits, Classes]:
    """Random logits times ``scale``, and classes drawn from the softmax of the unscaled logits."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, 5))
    cumulative = np.exp(log_probabilities(logits)).cumsum(axis=1)  # type: ignore[arg-type]
    classes = (generator.random((count, 1)) > cumulative[:, :-1]).sum(axis=1).astype(np.uint8)
    return logits * scale, classes


def cross_entropy(logits: Logits, classes: Classes, temperature: float) -> float:
    return float(-log_probabilities(logits / temperature)[np.arange(len(classes)), classes].mean())  # type: ignore[arg-type]


def test_the_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.58, 0.42], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0.96, 0.04], [1.0, 0.0]])
    error = calibration_error(probabilities, np.array([0, 1, 1, 1, 0, 0], np.uint8))
    assert error == pytest.approx((abs(1 - 0.58 - 0.6) + abs(1 - 0.7) + abs(0 - 0.9) + abs(2 - 0.96 - 1.0)) / 6)


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 5))
@settings(max_examples=25, deadline=None)
def test_the_temperature_is_the_one_that_scipy_finds(seed: int, scale: float) -> None:
    logits, classes = drawn(seed, scale)
    temperature = fit_temperature(logits, classes)
    expected = minimize_scalar(
        lambda each: cross_entropy(logits, classes, each), bounds=(LOWEST, HIGHEST), options={"xatol": 1e-9}
    )
    assert temperature == pytest.approx(float(expected.x), rel=1e-4)
    assert temperature == pytest.approx(scale, rel=0.25)  # ``drawn`` multiplied the logits by the scale
    assert fit_temperature(logits + 1e4, classes) == pytest.approx(temperature, rel=1e-4)  # no logit overflows
    assert cross_entropy(logits, classes, temperature) <= cross_entropy(logits, classes, 1) + 1e-12


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([[2.0, 0.0], [0.0, 2.0]], "classifies 100.0% of these images correctly"),  # the predictions are always right
        ([[0.0, 2.0], [2.0, 0.0]], "classifies 0.0% of these images correctly"),  # the predictions are never right
        ([[np.nan, 2.0], [2.0, 0.0]], "no temperature from 0.05 to 20 fits 2 images"),
    ],
)
def test_where_no_temperature_is_the_best_there_is_an_error(logits: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(np.array(logits), np.array([0, 1], np.uint8))


TRUTH = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 1]], np.bool_)
PREDICTED = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [1, 0, 1]], np.bool_)
SCORES = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.7], [0.1, 0.6, 0.0], [0.7, 0.2, 0.6]], np.float32)


def test_figures_are_those_counted_by_hand() -> None:
    outcome = evaluate_sets(PREDICTED, SCORES, TRUTH)
    assert outcome["c_precision"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert outcome["c_recall"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert outcome["o_precision"] == pytest.approx(5 / 6)
    assert outcome["o_recall"] == pytest.approx(5 / 6)
    assert outcome["o_f1"] == pytest.approx(5 / 6)
    assert outcome["exact_match"] == pytest.approx(2 / 4)  # images 2 and 3
    assert outcome["labels_per_image"] == pytest.approx(6 / 4)


def test_c_f1_is_the_harmonic_mean_of_c_p_and_c_r_and_not_the_mean_of_the_labels_f1() -> None:
    predicted = np.array([[1, 1], [1, 0], [1, 0], [1, 0]], np.bool_)
    truth = np.array([[1, 1], [0, 1], [0, 1], [0, 1]], np.bool_)
    outcome = evaluate_sets(predicted, predicted.astype(np.float32), truth)
    assert (outcome["c_precision"], outcome["c_recall"]) == pytest.approx(((1 / 4 + 1) / 2, (1 + 1 / 4) / 2))
    assert outcome["c_f1"] == pytest.approx(0.625)
    assert outcome["c_f1"] != pytest.approx((0.4 + 0.4) / 2)


def test_mean_ap_ranks_the_images_by_each_labels_scores() -> None:
    """Label 1's scores rank the images with this label first and fourth; label 2's scores rank its one image second."""
    assert evaluate_sets(PREDICTED, SCORES, TRUTH)["mean_ap"] == pytest.approx((1 + (1 / 1 + 2 / 4) / 2 + 1 / 2) / 3)


def test_a_label_that_no_image_has_is_left_out_of_mean_ap_and_metrics_without_a_correct_label_are_zero() -> None:
    truth, scores = (np.c_[TRUTH, np.zeros(4, np.bool_)], np.c_[SCORES, np.ones(4, np.float32)])
    outcome = evaluate_sets(np.c_[~TRUTH, np.zeros(4, np.bool_)], scores, truth)
    assert outcome["mean_ap"] == pytest.approx(evaluate_sets(PREDICTED, SCORES, TRUTH)["mean_ap"])
    assert (outcome["c_f1"], outcome["o_f1"], outcome["exact_match"]) == (0, 0, 0)


def test_deciding_takes_labels_that_reach_the_threshold_or_the_highest() -> None:
    scores = np.array([[0.5, 0.4, 0.6], [0.1, 0.3, 0.2]], np.float32)
    assert decide(scores, 0.5).tolist() == [[True, False, True], [False, True, False]]


def test_the_chosen_threshold_has_the_highest_o_f1() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((300, 4)) < 0.4
    scores = (truth * 0.3 + rng.random((300, 4)) * 0.7).astype(np.float32)

    def o_f1(threshold: float) -> float:
        return evaluate_sets(decide(scores, threshold), scores, truth)["o_f1"]

    best = o_f1(choose_threshold(scores, truth, candidates=1_200))
    assert best >= max(o_f1(float(threshold)) for threshold in np.unique(scores)[::10])
    assert best > o_f1(0.9) + 0.05
