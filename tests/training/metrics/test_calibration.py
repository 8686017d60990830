import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torchmetrics.functional.classification import multiclass_calibration_error

from hangtag.training.metrics.calibration import HIGHEST, LOWEST, fit_temperature, reliability
from hangtag.training.metrics.single_label import log_probabilities

Logits = npt.NDArray[np.float64]
Classes = npt.NDArray[np.uint8]


def drawn(seed: int, scale: float, count: int = 2_000) -> tuple[Logits, Classes]:
    """Logits, and classes drawn from their softmax, so that a temperature of 1 is right; then the logits scaled."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, 5))
    cumulative = np.exp(log_probabilities(logits)).cumsum(axis=1)  # type: ignore[arg-type]
    classes = (generator.random((count, 1)) > cumulative[:, :-1]).sum(axis=1).astype(np.uint8)
    return logits * scale, classes


def cross_entropy(logits: Logits, classes: Classes, temperature: float) -> float:
    return float(-log_probabilities(logits / temperature)[np.arange(len(classes)), classes].mean())  # type: ignore[arg-type]


def test_the_bins_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.5, 0.5], [1.0, 0.0]])
    bins = reliability(probabilities, np.array([0, 1, 1, 0, 0], np.uint8), bins=5)
    assert bins.counts.tolist() == [0, 0, 1, 2, 2]  # 0.8 is the upper end of its bin
    assert bins.confidence == pytest.approx([0, 0, 0.5, 0.75, 0.95])
    assert bins.accuracy == pytest.approx([0, 0, 1, 0.5, 1])
    assert bins.error == pytest.approx((0.5 + 2 * 0.25 + 2 * 0.05) / 5)


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 3))
@settings(max_examples=25, deadline=None)
def test_the_error_is_the_one_of_torchmetrics(seed: int, scale: float) -> None:
    logits, classes = drawn(seed, scale, count=300)
    probabilities = np.exp(log_probabilities(logits))  # type: ignore[arg-type]
    expected = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(classes.astype(np.int64)), num_classes=5, n_bins=15
    )
    assert reliability(probabilities, classes).error == pytest.approx(float(expected), abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 5))
@settings(max_examples=25, deadline=None)
def test_the_temperature_is_the_one_that_scipy_finds(seed: int, scale: float) -> None:
    logits, classes = drawn(seed, scale)
    temperature = fit_temperature(logits, classes)
    expected = minimize_scalar(
        lambda each: cross_entropy(logits, classes, each), bounds=(LOWEST, HIGHEST), options={"xatol": 1e-9}
    )
    assert temperature == pytest.approx(float(expected.x), rel=1e-4)
    assert temperature == pytest.approx(scale, rel=0.25)  # the factor by which the logits are too large
    assert cross_entropy(logits, classes, temperature) <= cross_entropy(logits, classes, 1) + 1e-12


def test_scaling_by_the_temperature_mends_the_error() -> None:
    logits, classes = drawn(1, 3, count=20_000)
    before = reliability(np.exp(log_probabilities(logits)), classes).error  # type: ignore[arg-type]
    scaled = logits / fit_temperature(logits, classes)
    after = reliability(np.exp(log_probabilities(scaled)), classes).error  # type: ignore[arg-type]
    assert before > 0.1
    assert after < 0.02


def test_large_logits_do_not_overflow() -> None:
    logits, classes = drawn(2, 15)
    shifted = logits + 1e4
    assert fit_temperature(shifted, classes) == pytest.approx(fit_temperature(logits, classes), rel=1e-6)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([[2.0, 0.0], [0.0, 2.0]], "right about 100.0% of them"),  # certainty never costs anything
        ([[0.0, 2.0], [2.0, 0.0]], "right about 0.0% of them"),  # certainty never pays
        ([[np.nan, 2.0], [2.0, 0.0]], "no temperature from 0.05 to 20 fits 2 images"),
    ],
)
def test_where_no_temperature_is_the_best_there_is_an_error(logits: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(np.array(logits), np.array([0, 1], np.uint8))
