"""Confidence intervals agree with scipy's, and contain the true value in 95 % of simulated load tests."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_ind

from hangtag.serving.loadtest.statistics.intervals import Interval, Sections

BLOCKS = 5  # the default
TESTS = 1000
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
LATENCIES: dict[str, Draw] = {
    "lognormal": lambda random, shape: random.lognormal(0, 0.5, shape),
    "heavy-tailed": lambda random, shape: 1 + random.pareto(1.2, shape),  # the variance is infinite
    "humped": lambda random, shape: random.lognormal(0, 0.1, shape) * np.where(random.random(shape) < 0.01, 20.0, 1.0),
}


def rates(*blocks: float) -> Sections:
    return Sections(float(np.mean(blocks)) if blocks else np.nan, np.array(blocks))


def percentiles(blocks: np.ndarray, q: float) -> Sections:
    """The percentile of the latencies [blocks, queries] over all blocks, and of each block."""
    each = np.percentile(blocks, q, axis=1, method="inverted_cdf")
    return Sections(float(np.percentile(blocks, q, method="inverted_cdf")), each)


def test_paired_blocks_of_an_interrupted_run_have_no_interval() -> None:
    ratio = rates(2, 2, 2).ratio_to(rates(1, 1))
    assert (ratio.estimate, ratio.known) == (2.0, False)


@pytest.mark.parametrize("blocks", [(5.0,), (), (0.0, 0.0, 0.0), (0.0, 1.0, 1.0)])
def test_rates_of_less_than_two_blocks_and_rates_of_zero_have_no_interval(blocks: tuple[float, ...]) -> None:
    ones = rates(*(1.0 for _ in blocks))
    for ratio in (ones.ratio_to(rates(*blocks)), rates(*blocks).ratio_to(ones)):
        assert not ratio.known
        assert not ratio.shows_difference


def test_a_block_without_an_answer_leaves_no_interval_of_percentiles() -> None:
    some = Sections(1.0, np.array([1.0, 2.0]))
    ratio = Sections(1.0, np.array([1.0, np.nan])).ratio_to(some)
    assert ratio.estimate == 1.0
    assert not ratio.known


def test_the_interval_of_pairs_is_scipys_t_of_their_log_ratios() -> None:
    above = np.array([105.0, 96.0, 110.0, 99.0, 92.0])
    below = np.array([51.0, 47.0, 52.0, 50.0, 49.0])
    ours = rates(*above).ratio_to(rates(*below))
    theirs = ttest_1samp(np.log(above / below), 0).confidence_interval(0.95)
    assert ours.estimate == pytest.approx(above.mean() / below.mean())
    # To first order, the log of a ratio of means equals the mean of the log ratios.
    assert np.log([ours.low, ours.high]) == pytest.approx([theirs.low, theirs.high], abs=2e-3)
    spread = np.log(above / below) - np.log(ours.estimate)
    margin = t.ppf(0.975, 4) * np.sqrt((spread**2).sum() / (5 * 4))
    assert np.log([ours.low, ours.high]) == pytest.approx(np.log(ours.estimate) + np.array([-margin, margin]))


def test_the_interval_of_unpaired_blocks_is_scipys_welch() -> None:
    above = np.array([205.0, 196.0, 214.0, 189.0, 198.0, 203.0])
    below = np.array([101.0, 97.0, 102.0, 100.0])
    ours = rates(*above).ratio_to(rates(*below), paired=False)
    test = ttest_ind(np.log(above), np.log(below), equal_var=False)
    theirs = test.confidence_interval(0.95)
    # hangtag rounds the degrees of freedom down, so its confidence interval is wider than scipy's.
    wider = t.ppf(0.975, np.floor(test.df)) / t.ppf(0.975, test.df)
    assert np.log(ours.high / ours.low) == pytest.approx((theirs.high - theirs.low) * wider, rel=2e-3)
    assert np.log(ours.high * ours.low) == pytest.approx(theirs.high + theirs.low, abs=2e-3)


def test_the_estimate_is_that_of_all_blocks_and_the_variance_that_of_each() -> None:
    """The ratio of the p99s is 2 in the first block, 4 in the second block, and 4 if both blocks are pooled."""
    ratio = percentiles(np.array([[2.0], [4.0]]), 99).ratio_to(percentiles(np.ones((2, 1)), 99))
    margin = t.ppf(0.975, 1) * np.log(2) / np.sqrt(2)
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((4.0, 4 / np.exp(margin), 4 * np.exp(margin)))
    equal = rates(4, 4, 4, 4, 4).ratio_to(rates(1, 1, 1, 1, 1))
    assert (equal.estimate, equal.low, equal.high) == (4.0, 4.0, 4.0)
    assert equal.shows_difference


def coverage(truth: float, interval_of_one_test: Callable[[np.random.Generator], Interval]) -> float:
    random = np.random.default_rng(1)
    intervals = [interval_of_one_test(random) for _ in range(TESTS)]
    return sum(interval.low <= truth <= interval.high for interval in intervals) / TESTS


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("truth", "blocks"), [(2.0, BLOCKS), (1.0, 20)])
def test_coverage_of_throughput_ratios(truth: float, paired: bool, blocks: int) -> None:
    def interval_of_one_test(random: np.random.Generator) -> Interval:
        common = random.lognormal(0, 0.1, blocks) if paired else 1.0
        above, below = (1000 * common * (1 + 0.05 * random.standard_normal(blocks)) for _ in "ab")
        return rates(*truth * above).ratio_to(rates(*below), paired=paired)

    assert 0.93 <= coverage(truth, interval_of_one_test) <= 0.98


@pytest.mark.parametrize(
    ("q", "latencies", "truth", "paired", "least"),
    [
        (99.0, "lognormal", 2.0, False, 0.93),
        (50.0, "heavy-tailed", 1.0, True, 0.93),
        # About every hundredth query takes twenty times as long, so chance decides whether p99 is short or long. The
        # intervals are wide, but fewer than 95 % of them contain the true ratio (docs/explanation/load-testing.md).
        (99.0, "humped", 2.0, True, 0.88),
    ],
)
def test_coverage_of_percentile_ratios(q: float, latencies: str, truth: float, paired: bool, least: float) -> None:
    """As in a closed loop, the slower target gets fewer queries."""

    def interval_of_one_test(random: np.random.Generator) -> Interval:
        here, other = random.lognormal(0, 0.05, (2, BLOCKS))
        there = here if paired else other
        slow = truth * LATENCIES[latencies](random, (BLOCKS, 200)) * here[:, np.newaxis]
        fast = LATENCIES[latencies](random, (BLOCKS, int(200 * truth))) * there[:, np.newaxis]
        return percentiles(slow, q).ratio_to(percentiles(fast, q), paired=paired)

    assert least <= coverage(truth, interval_of_one_test) <= 0.98
