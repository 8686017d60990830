"""Simulates whether 95 % intervals hold the truth in 95 % of load tests, with the default number of blocks."""

from collections.abc import Callable

import numpy as np
import pytest

from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.statistics.intervals import Interval, ratio_of_percentiles, ratio_of_rates
from tests.serving.loadtest.builders import targets

pytestmark = pytest.mark.slow

BLOCKS = Scenario(targets("cnn")).blocks
TESTS = 1000
# Durations in steps of 0.4 %: a duration counts as the upper end of its bucket, as in a histogram.
SHORTEST, STEP = 0.05, 0.004
EDGES = SHORTEST * np.exp(STEP * np.arange(3600))
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
LATENCIES: dict[str, Draw] = {
    "lognormal": lambda random, shape: random.lognormal(0, 0.5, shape),
    "heavy-tailed": lambda random, shape: 1 + random.pareto(1.2, shape),  # Its variance is infinite.
    "humped": lambda random, shape: random.lognormal(0, 0.1, shape) * np.where(random.random(shape) < 0.01, 20.0, 1.0),
}


def coverage(truth: float, interval_of_one_test: Callable[[np.random.Generator], Interval]) -> float:
    random = np.random.default_rng(1)
    intervals = [interval_of_one_test(random) for _ in range(TESTS)]
    return sum(interval.low <= truth <= interval.high for interval in intervals) / TESTS


def counted(latencies: np.ndarray) -> np.ndarray:
    places = np.ceil(np.log(latencies / SHORTEST) / STEP).clip(0, len(EDGES) - 1).astype(int)
    return np.stack([np.bincount(block, minlength=len(EDGES)) for block in places])


def drift(random: np.random.Generator) -> np.ndarray:
    return random.lognormal(0, 0.05, BLOCKS)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("truth", [1.0, 2.0])
@pytest.mark.parametrize("blocks", [BLOCKS, 10, 20])
def test_coverage_of_throughput_ratios(truth: float, paired: bool, blocks: int) -> None:
    def interval_of_one_test(random: np.random.Generator) -> Interval:
        common = random.lognormal(0, 0.1, blocks) if paired else 1.0
        above, below = (1000 * common * (1 + 0.05 * random.standard_normal(blocks)) for _ in "ab")
        return ratio_of_rates(truth * above, below, paired=paired)

    assert 0.93 <= coverage(truth, interval_of_one_test) <= 0.98


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("truth", [1.0, 2.0])
@pytest.mark.parametrize("latencies", ["lognormal", "heavy-tailed"])
@pytest.mark.parametrize("q", [50.0, 99.0])
def test_coverage_of_percentile_ratios(q: float, latencies: str, truth: float, paired: bool) -> None:
    assert 0.93 <= percentile_coverage(q, latencies, truth, paired) <= 0.98


@pytest.mark.parametrize("truth", [1.0, 2.0, 5.0])
def test_coverage_of_a_percentile_at_the_edge_of_a_hump(truth: float) -> None:
    """Every hundredth query takes twenty times as long, so p99 is either value by chance.

    The interval is then very wide, and yet holds the truth less often than 95 %; docs/loadtest.md says how often.
    """
    assert 0.88 <= percentile_coverage(99.0, "humped", truth, True) <= 0.98


def percentile_coverage(q: float, latencies: str, truth: float, paired: bool) -> float:
    """The slower interval_of_one_test is sent fewer queries, as in a closed loop."""

    def interval_of_one_test(random: np.random.Generator) -> Interval:
        here = drift(random)
        there = here if paired else drift(random)
        slow = truth * LATENCIES[latencies](random, (BLOCKS, 200)) * here[:, np.newaxis]
        fast = LATENCIES[latencies](random, (BLOCKS, int(200 * truth))) * there[:, np.newaxis]
        return ratio_of_percentiles(EDGES, counted(slow), counted(fast), q, paired=paired)

    return coverage(truth, interval_of_one_test)
