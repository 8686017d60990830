import numpy as np
import pytest
from scipy.stats import bootstrap

from serving.loadtest.statistics import bootstrap as ours_module
from serving.loadtest.statistics.bootstrap import ratio_of_percentiles, ratio_of_rates


def test_the_interval_of_equal_blocks_is_their_ratio() -> None:
    values = np.array([1.0, 2.0, 4.0])
    ones, fours = np.tile([10, 0, 0], (5, 1)), np.tile([0, 0, 10], (5, 1))
    ratio = ratio_of_percentiles(values, fours, ones, 99, np.random.default_rng(0))
    assert (ratio.estimate, ratio.low, ratio.high) == (4.0, 4.0, 4.0)
    assert ratio.shows_difference


def test_drift_that_hits_both_alike_cancels_out() -> None:
    drift = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    ratio = ratio_of_rates(2 * drift, drift, np.random.default_rng(0))
    assert [ratio.low, ratio.high] == pytest.approx([2.0, 2.0])


def test_noise_shows_no_difference() -> None:
    random = np.random.default_rng(3)
    ratio = ratio_of_rates(100 + random.normal(0, 10, 8), 100 + random.normal(0, 10, 8), random)
    assert ratio.low < 1 < ratio.high
    assert not ratio.shows_difference


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        ratio = ratio_of_rates(200 + random.normal(0, 10, 12), 100 + random.normal(0, 5, 12), random)
        covered += ratio.low <= 2 <= ratio.high
    # The percentile method is somewhat too narrow for few blocks: about 92 % for 12 of them.
    assert 0.86 <= covered / 200 <= 0.99


@pytest.mark.parametrize("rates", [np.array([5.0]), np.array([])])
def test_fewer_than_two_blocks_have_no_interval(rates: np.ndarray) -> None:
    ratio = ratio_of_rates(rates, rates, np.random.default_rng(0))
    assert not ratio.known
    assert not ratio.shows_difference


def test_a_rate_of_zero_has_no_ratio() -> None:
    ratio = ratio_of_rates(np.ones(3), np.zeros(3), np.random.default_rng(0))
    assert not ratio.known


@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_is_scipys(paired: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours_module, "BOOTSTRAP_RESAMPLES", 20_000)
    random = np.random.default_rng(11)
    drift = random.normal(0, 8, 15)
    above, below = 200 + 2 * drift + random.normal(0, 6, 15), 100 + drift + random.normal(0, 3, 15)
    ours = ratio_of_rates(above, below, np.random.default_rng(1), paired=paired)
    theirs = bootstrap(
        (above, below),
        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
        paired=paired,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.estimate == pytest.approx(above.mean() / below.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_blocks_that_did_not_run_next_to_each_other_are_drawn_apart() -> None:
    drift = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    apart = ratio_of_rates(2 * drift, drift, np.random.default_rng(0), paired=False)
    assert apart.low < 1.5 < 2.5 < apart.high
    more = ratio_of_rates(2 * drift, np.tile(drift, 2), np.random.default_rng(0), paired=False)
    assert more.estimate == pytest.approx(2.0)


def test_pairs_need_partners() -> None:
    with pytest.raises(ValueError, match="come in pairs, not 3 beside 2"):
        ratio_of_rates(np.ones(3), np.ones(2), np.random.default_rng(0))


def test_a_percentile_of_the_drawn_blocks_together() -> None:
    """With two blocks there are three resamples: the first twice, each once, the second twice."""
    values = np.array([1.0, 2.0, 4.0])
    slow = np.array([[0, 10, 0], [0, 0, 10]])
    fast = np.array([[10, 0, 0], [10, 0, 0]])
    ratio = ratio_of_percentiles(values, slow, fast, 99, np.random.default_rng(0))
    assert (ratio.estimate, ratio.low, ratio.high) == (4.0, 2.0, 4.0)
