"""Confidence intervals agree with scipy's tests, and 95 % of them contain the truth in simulated load tests."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_ind

from hangtag.serving.loadtest.statistics.intervals import Interval, ratio_of_percentiles, ratio_of_rates

BLOCKS = 5  # the default
TESTS = 1000
# The durations have steps of 0.4 %: as in a histogram, a duration is the upper end of its bucket.
SHORTEST, STEP = 0.05, 0.004
EDGES = SHORTEST * np.exp(STEP * np.arange(3600))
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
LATENCIES: dict[str, Draw] = {
    "lognormal": lambda random, shape: random.lognormal(0, 0.5, shape),
    "heavy-tailed": lambda random, shape: 1 + random.pareto(1.2, shape),  # its variance is infinite
    "humped": lambda random, shape: random.lognormal(0, 0.1, shape) * np.where(random.random(shape) < 0.01, 20.0, 1.0),
}


def test_paired_blocks_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="must be equal in number, not 3 and 2"):
        ratio_of_rates(np.ones(3), np.ones(2))


@pytest.mark.parametrize("rates", [np.array([5.0]), np.array([]), np.zeros(3), np.array([0.0, 1.0, 1.0])])
def test_rates_of_less_than_two_blocks_and_rates_of_zero_have_no_interval(rates: np.ndarray) -> None:
    for ratio in (ratio_of_rates(np.ones(len(rates)), rates), ratio_of_rates(rates, np.ones(len(rates)))):
        assert not ratio.known
        assert not ratio.shows_difference


def test_a_block_without_an_answer_leaves_no_interval_of_percentiles() -> None:
    values, some = np.array([1.0, 2.0]), np.array([[9, 0], [0, 9]])
    ratio = ratio_of_percentiles(values, np.array([[9, 0], [0, 0]]), some, 50)
    assert ratio.estimate == 1.0
    assert not ratio.known
    assert np.isnan(ratio_of_percentiles(values, 0 * some, 0 * some, 50).estimate)


def test_the_interval_of_pairs_is_scipys_t_of_their_log_ratios() -> None:
    above = np.array([105.0, 96.0, 110.0, 99.0, 92.0])
    below = np.array([51.0, 47.0, 52.0, 50.0, 49.0])
    ours = ratio_of_rates(above, below)
    theirs = ttest_1samp(np.log(above / below), 0).confidence_interval(0.95)
    assert ours.estimate == pytest.approx(above.mean() / below.mean())
    # The log of a ratio of means differs from the mean of the logs, but only to second order in the differences.
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
    # hangtag's degrees of freedom are rounded down.
    wider = t.ppf(0.975, np.floor(test.df)) / t.ppf(0.975, test.df)
    assert np.log(ours.high / ours.low) == pytest.approx((theirs.high - theirs.low) * wider, rel=2e-3)
    assert np.log(ours.high * ours.low) == pytest.approx(theirs.high + theirs.low, abs=2e-3)


def test_the_estimate_is_that_of_all_blocks_and_the_variance_that_of_each() -> None:
    """p99 is 4 against 1 for both blocks, and 2 and 4 against 1 for each: log ratios ln 2 and 0 below the whole."""
    values = np.array([1.0, 2.0, 4.0])
    slow = np.array([[0, 10, 0], [0, 0, 10]])
    fast = np.array([[10, 0, 0], [10, 0, 0]])
    ratio = ratio_of_percentiles(values, slow, fast, 99)
    margin = t.ppf(0.975, 1) * np.log(2) / np.sqrt(2)
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((4.0, 4 / np.exp(margin), 4 * np.exp(margin)))
    equal = ratio_of_percentiles(values, np.tile(slow[1], (5, 1)), np.tile(fast[0], (5, 1)), 99)
    assert (equal.estimate, equal.low, equal.high) == (4.0, 4.0, 4.0)
    assert equal.shows_difference


def coverage(truth: float, interval_of_one_test: Callable[[np.random.Generator], Interval]) -> float:
    random = np.random.default_rng(1)
    intervals = [interval_of_one_test(random) for _ in range(TESTS)]
    return sum(interval.low <= truth <= interval.high for interval in intervals) / TESTS


def counted(latencies: np.ndarray) -> np.ndarray:
    places = np.ceil(np.log(latencies / SHORTEST) / STEP).clip(0, len(EDGES) - 1).astype(int)
    return np.stack([np.bincount(block, minlength=len(EDGES)) for block in places])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("truth", "blocks"), [(2.0, BLOCKS), (1.0, 20)])
def test_coverage_of_throughput_ratios(truth: float, paired: bool, blocks: int) -> None:
    def interval_of_one_test(random: np.random.Generator) -> Interval:
        common = random.lognormal(0, 0.1, blocks) if paired else 1.0
        above, below = (1000 * common * (1 + 0.05 * random.standard_normal(blocks)) for _ in "ab")
        return ratio_of_rates(truth * above, below, paired=paired)

    assert 0.93 <= coverage(truth, interval_of_one_test) <= 0.98


@pytest.mark.parametrize(
    ("q", "latencies", "truth", "paired", "least"),
    [
        (99.0, "lognormal", 2.0, False, 0.93),
        (50.0, "heavy-tailed", 1.0, True, 0.93),
        # Every hundredth query takes twenty times as long, so p99 is either value by chance. The interval is then very
        # wide, but contains the truth less often than 95 %; docs/explanation/load-testing.md says how often.
        (99.0, "humped", 2.0, True, 0.88),
    ],
)
def test_coverage_of_percentile_ratios(q: float, latencies: str, truth: float, paired: bool, least: float) -> None:
    """The slower target gets fewer queries, as in a closed loop."""

    def interval_of_one_test(random: np.random.Generator) -> Interval:
        here, other = random.lognormal(0, 0.05, (2, BLOCKS))
        there = here if paired else other
        slow = truth * LATENCIES[latencies](random, (BLOCKS, 200)) * here[:, np.newaxis]
        fast = LATENCIES[latencies](random, (BLOCKS, int(200 * truth))) * there[:, np.newaxis]
        return ratio_of_percentiles(EDGES, counted(slow), counted(fast), q, paired=paired)

    assert least <= coverage(truth, interval_of_one_test) <= 0.98
