import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from hangtag.serving.loadtest.statistics.early_stopping import keeps, over_allowed, samples_needed

PERCENTILES = st.sampled_from([50.0, 90.0, 95.0, 97.0, 99.0, 99.9])


@pytest.mark.parametrize(
    ("over", "q", "needed"),
    [
        *((0, 90.0, 44), (0, 95.0, 90), (0, 99.0, 459), (0, 99.9, 4603)),
        *((1, 90.0, 64), (1, 95.0, 130), (1, 99.0, 662), (1, 99.9, 6636)),
    ],
)
def test_the_table_of_mlperf(over: int, q: float, needed: int) -> None:
    assert samples_needed(over, q) == needed


@given(over=st.integers(0, 400), q=PERCENTILES, confidence=st.sampled_from([0.9, 0.99, 0.999]))
def test_samples_needed_is_the_smallest_count_that_rejects_the_hypothesis(
    over: int, q: float, confidence: float
) -> None:
    needed = samples_needed(over, q, confidence)
    above, chance = 1 - q / 100, 1 - confidence
    assert binom.cdf(over, needed, above) <= chance * (1 + 1e-9)
    assert binom.cdf(over, needed - 1, above) > chance * (1 - 1e-9)


@given(queries=st.integers(0, 2_000_000), q=PERCENTILES)
def test_over_allowed_is_the_largest_count_that_rejects_the_hypothesis(queries: int, q: float) -> None:
    allowed = over_allowed(queries, q)
    above = 1 - q / 100
    assert allowed == -1 or binom.cdf(allowed, queries, above) <= 0.01 * (1 + 1e-9)
    assert binom.cdf(allowed + 1, queries, above) > 0.01 * (1 - 1e-9)


@given(over=st.integers(0, 200), q=PERCENTILES)
def test_samples_needed_and_over_allowed_are_inverse(over: int, q: float) -> None:
    needed = samples_needed(over, q)
    assert over_allowed(needed, q) == over
    assert over_allowed(needed - 1, q) == over - 1
    assert keeps(needed, over, q)
    assert not keeps(needed - 1, over, q)


@pytest.mark.parametrize(
    ("over", "q", "confidence", "message"),
    [
        (-1, 99.0, 0.99, "0 or more, not -1"),
        (0, 0.0, 0.99, "between 0 and 100, not 0"),
        (0, 100.0, 0.99, "between 0 and 100, not 100"),
        (0, 99.0, 1.0, "between 0 and 1, not at 1"),
    ],
)
def test_arguments_out_of_range_are_refused(over: int, q: float, confidence: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        samples_needed(over, q, confidence)
