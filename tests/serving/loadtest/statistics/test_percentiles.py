"""Percentiles, and the histogram of durations that they are read from, against numpy and HdrHistogram's own library."""

import math
import pickle

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram
from hangtag.serving.loadtest.statistics.percentiles import percentile, percentiles
from tests.serving.loadtest.runs import histogram

DURATIONS = st.lists(st.floats(1e-6, 3000), min_size=1, max_size=100)


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


@given(samples=DURATIONS, q=st.sampled_from([0, 50, 90, 99, 100]))
def test_percentiles_of_a_histogram_have_three_significant_digits(samples: list[float], q: float) -> None:
    exact = np.percentile(samples, q, method="inverted_cdf")
    assert histogram(*samples).percentile(q) == pytest.approx(exact, rel=1e-3, abs=1e-6)


@given(parts=st.lists(DURATIONS, min_size=1, max_size=4))
def test_merged_histograms_are_the_histogram_of_everything(parts: list[list[float]]) -> None:
    merged = DurationHistogram.merged(histogram(*part) for part in parts)
    whole = histogram(*(sample for part in parts for sample in part))
    assert len(merged) == len(whole)
    assert (merged.counts() == whole.counts()).all()


@given(batches=st.lists(st.lists(st.integers(1, 3_600_000_000), max_size=50), max_size=3))
def test_recording_many_at_once_equals_recording_each(batches: list[list[int]]) -> None:
    """Equal to hdrh's own record_value, its minimum, maximum and encoding included."""
    ours, theirs = DurationHistogram(), HdrHistogram(1, 3_600_000_000, 3)
    for batch in batches:
        ours.record(np.array(batch) / 1e6)
        for value in batch:
            theirs.record_value(value)
    assert ours.counts().tolist() == list(theirs.counts)
    assert ours.encode() == theirs.encode()
    assert len(ours) == theirs.get_total_count()


def test_encoding_and_pickling_keep_the_counts() -> None:
    original = histogram(0.001, 0.5, 7.0)
    for copy in (DurationHistogram(original.encode()), pickle.loads(pickle.dumps(original))):
        assert (copy.counts() == original.counts()).all()


def test_an_empty_histogram_has_no_figures() -> None:
    assert len(DurationHistogram()) == 0
    assert math.isnan(DurationHistogram().percentile(50))
    assert math.isnan(DurationHistogram().maximum)


def test_durations_out_of_range_are_clipped() -> None:
    assert histogram(-0.1, 0.0).maximum == pytest.approx(1e-6)
    assert histogram(1e9).maximum == pytest.approx(3600, rel=1e-3)
