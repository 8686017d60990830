import math
import pickle

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram
from tests.serving.loadtest.builders import histogram

DURATIONS = st.lists(st.floats(1e-6, 3000), min_size=1, max_size=100)


@given(samples=DURATIONS, q=st.sampled_from([0, 50, 90, 99, 100]))
def test_percentiles_have_three_significant_digits(samples: list[float], q: float) -> None:
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
