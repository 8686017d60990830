import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hangtag.serving.loadtest.statistics.percentiles import percentile, percentiles


@pytest.mark.parametrize(("q", "expected"), [(0, 1), (1, 1), (50, 50), (90, 90), (99, 99), (99.1, 100), (100, 100)])
def test_percentiles_of_one_to_a_hundred(q: float, expected: float) -> None:
    assert percentile(np.arange(1.0, 101.0), np.ones(100, np.int64), q) == expected


def test_no_samples_have_no_percentile() -> None:
    assert math.isnan(percentile(np.arange(3.0), np.zeros(3, np.int64), 50))
    assert math.isnan(percentile(np.empty(0), np.empty(0, np.int64), 50))


@pytest.mark.parametrize("q", [-0.1, 100.1])
def test_a_percentile_lies_between_0_and_100(q: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 100"):
        percentile(np.arange(3.0), np.ones(3, np.int64), q)


@given(
    samples=st.lists(st.integers(0, 50), min_size=1, max_size=300),
    q=st.one_of(
        st.sampled_from([0.0, 50.0, 90.0, 95.0, 99.0, 99.9, 100.0]), st.integers(0, 1000).map(lambda n: n / 10)
    ),
)
def test_percentiles_are_numpys_nearest_rank(samples: list[int], q: float) -> None:
    counts = np.bincount(samples, minlength=51)
    expected = np.percentile(samples, q, method="inverted_cdf")
    # numpy's rank suffers from float error where q % of n is a whole number: allow for either neighbour there.
    near = {np.percentile(samples, min(max(q + d, 0), 100), method="inverted_cdf") for d in (-1e-9, 1e-9)}
    assert percentile(np.arange(51.0), counts, q) in near | {expected}


def test_several_distributions_have_independent_percentiles() -> None:
    counts = np.array([[1, 0, 0], [0, 0, 4], [0, 0, 0]])
    medians = percentiles(np.array([1.0, 2.0, 3.0]), counts, 50)
    assert list(medians[:2]) == [1.0, 3.0]
    assert math.isnan(medians[2])
