import numpy as np
import pytest

from hangtag.serving.server.telemetry.histogram import BucketHistogram, HistogramRecorder

BOUNDS = (1.0, 2.0, 4.0)


def test_a_value_counts_at_the_first_bound_that_it_does_not_exceed() -> None:
    tally = HistogramRecorder(BOUNDS)
    for value in (0.0, 1.0, 1.5, 2.0, 4.0, 4.1, 100.0):
        tally.add(value)
    assert tally.histogram() == BucketHistogram(BOUNDS, (2, 2, 1, 2), 112.6)
    assert tally.histogram().count == 7


def test_many_values_at_once_count_as_each_alone() -> None:
    values = np.concatenate([np.random.default_rng(0).random(1000) * 5, [0.0, 1.0, 2.0, 4.0, 100.0]])
    alone, together = HistogramRecorder(BOUNDS), HistogramRecorder(BOUNDS)
    for value in values:
        alone.add(float(value))
    together.add_all(values)
    assert alone.histogram().counts == together.histogram().counts
    assert alone.histogram().sum == pytest.approx(together.histogram().sum)


def test_histograms_add_up() -> None:
    one, another = BucketHistogram(BOUNDS, (1, 0, 2, 0), 9.0), BucketHistogram(BOUNDS, (0, 1, 1, 5), 50.0)
    assert one + another == BucketHistogram(BOUNDS, (1, 1, 3, 5), 59.0)
    assert one + BucketHistogram.empty(BOUNDS) == one


def test_a_histogram_stays_as_it_was() -> None:
    tally = HistogramRecorder(BOUNDS)
    before = tally.histogram()
    tally.add(1)
    assert before.count == 0
