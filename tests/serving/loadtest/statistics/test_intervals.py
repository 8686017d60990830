import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_ind

from hangtag.serving.loadtest.statistics.intervals import ratio_of_percentiles, ratio_of_rates


def test_the_interval_of_equal_blocks_is_their_ratio() -> None:
    values = np.array([1.0, 2.0, 4.0])
    ones, fours = np.tile([10, 0, 0], (5, 1)), np.tile([0, 0, 10], (5, 1))
    ratio = ratio_of_percentiles(values, fours, ones, 99)
    assert (ratio.estimate, ratio.low, ratio.high) == (4.0, 4.0, 4.0)
    assert ratio.shows_difference


def test_drift_that_affects_both_alike_cancels_out() -> None:
    drift = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    ratio = ratio_of_rates(2 * drift, drift)
    assert [ratio.low, ratio.high] == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize("rates", [np.array([5.0]), np.array([])])
def test_fewer_than_two_blocks_have_no_interval(rates: np.ndarray) -> None:
    ratio = ratio_of_rates(rates, rates)
    assert not ratio.known
    assert not ratio.shows_difference


@pytest.mark.parametrize("rates", [np.zeros(3), np.array([0.0, 1.0, 1.0])])
def test_a_rate_of_zero_has_no_interval(rates: np.ndarray) -> None:
    assert not ratio_of_rates(np.ones(3), rates).known
    assert not ratio_of_rates(rates, np.ones(3)).known


def test_a_block_without_an_answer_leaves_no_interval_of_percentiles() -> None:
    ratio = ratio_of_percentiles(np.array([1.0, 2.0]), np.array([[9, 0], [0, 0]]), np.array([[9, 0], [0, 9]]), 50)
    assert ratio.estimate == 1.0
    assert not ratio.known


def test_the_interval_of_pairs_is_scipys_t_of_their_log_ratios() -> None:
    above = np.array([105.0, 96.0, 110.0, 99.0, 92.0])
    below = np.array([51.0, 47.0, 52.0, 50.0, 49.0])
    ours = ratio_of_rates(above, below)
    theirs = ttest_1samp(np.log(above / below), 0).confidence_interval(0.95)
    assert ours.estimate == pytest.approx(above.mean() / below.mean())
    # The logarithm of a ratio of means is not quite the mean of the logarithms: the second order of small differences.
    assert np.log([ours.low, ours.high]) == pytest.approx([theirs.low, theirs.high], abs=2e-3)
    spread = np.log(above / below) - np.log(ours.estimate)
    margin = t.ppf(0.975, 4) * np.sqrt((spread**2).sum() / (5 * 4))
    assert np.log([ours.low, ours.high]) == pytest.approx(np.log(ours.estimate) + np.array([-margin, margin]))


def test_the_interval_of_unpaired_blocks_is_scipys_welch() -> None:
    above = np.array([205.0, 196.0, 214.0, 189.0, 198.0, 203.0])
    below = np.array([101.0, 97.0, 102.0, 100.0])
    ours = ratio_of_rates(above, below, paired=False)
    test = ttest_ind(np.log(above), np.log(below), equal_var=False)
    theirs = test.confidence_interval(0.95)
    # Our degrees of freedom are rounded down.
    wider = t.ppf(0.975, np.floor(test.df)) / t.ppf(0.975, test.df)
    assert np.log(ours.high / ours.low) == pytest.approx((theirs.high - theirs.low) * wider, rel=2e-3)
    assert np.log(ours.high * ours.low) == pytest.approx(theirs.high + theirs.low, abs=2e-3)


def test_drift_does_not_cancel_out_of_unpaired_blocks() -> None:
    drift = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    apart = ratio_of_rates(2 * drift, drift, paired=False)
    assert apart.low < 1 < 4 < apart.high
    more = ratio_of_rates(2 * drift, np.tile(drift, 2), paired=False)
    assert more.estimate == pytest.approx(2.0)


def test_pairs_need_partners() -> None:
    with pytest.raises(ValueError, match="come in pairs, not 3 beside 2"):
        ratio_of_rates(np.ones(3), np.ones(2))


def test_the_estimate_is_that_of_all_blocks_and_the_variance_that_of_each() -> None:
    """p99 of both blocks is 4 against 1, of each alone 2 and 4 against 1: log ratios ln 2 and 0 below the whole."""
    values = np.array([1.0, 2.0, 4.0])
    slow = np.array([[0, 10, 0], [0, 0, 10]])
    fast = np.array([[10, 0, 0], [10, 0, 0]])
    ratio = ratio_of_percentiles(values, slow, fast, 99)
    margin = t.ppf(0.975, 1) * np.log(2) / np.sqrt(2)
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((4.0, 4 / np.exp(margin), 4 * np.exp(margin)))
