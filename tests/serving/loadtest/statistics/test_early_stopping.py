"""Early stopping: how many queries tell a percentile, and what is concluded from a run."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.statistics.early_stopping import keeps, over_allowed, samples_needed
from tests.serving.loadtest.runs import block, run_of

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


def queries(*seconds: float, failed: int = 0, **more: Any) -> Any:
    """A run of an open loop whose queries took these seconds."""
    return run_of(block("cnn", OpenLoop(100.0), *seconds, failed=failed), **more)


def test_a_percentile_keeps_its_bound_when_chance_is_ruled_out() -> None:
    fast, slow = (0.001,), (0.1,)
    needed = samples_needed(1, 99.0)
    assert queries(*fast * (needed - 1), *slow, target_latency=0.01).keeps_target
    assert not queries(*fast * (needed - 2), *slow, target_latency=0.01).keeps_target
    assert not queries(*fast * (needed - 1), *slow * 2, target_latency=0.01).keeps_target
    assert queries(*fast * 100, target_latency=0.01, percentile=90.0).keeps_target
    assert queries(*fast).keeps_target is None


def test_a_failed_call_is_over_every_bound() -> None:
    run = queries(*(0.001,) * 661, failed=1, target_latency=1.0)
    assert run.over(1.0) == 1
    assert run.keeps_target
    assert not queries(*(0.001,) * 660, failed=1, target_latency=1.0).keeps_target


@pytest.mark.parametrize("latency", [0.001, 1.0])
def test_too_few_queries_neither_keep_a_bound_nor_miss_it(latency: float) -> None:
    short = queries(*(latency,) * 500, target_latency=0.01, percentile=99.9, judged=True)
    assert (short.keeps_target, short.valid) == (None, False)
    long = queries(*(latency,) * 4603, target_latency=0.01, percentile=99.9, judged=True)
    assert (long.valid, long.keeps_target) == (True, latency < 0.01)


@given(seed=st.integers(0, 100))
def test_the_bound_of_a_percentile_is_above_the_true_one_almost_always(seed: int) -> None:
    """An exponential distribution's 90th percentile is ln 10. With 99 % confidence hardly any bound is below."""
    random = np.random.default_rng(seed)
    below = sum(
        queries(*random.exponential(1.0, 200), percentile=90.0).percentile_bound < np.log(10) * 0.999 for _ in range(10)
    )
    assert below <= 3


def test_the_bound_is_the_smallest_latency_that_few_enough_are_over() -> None:
    run = queries(*(0.001,) * 600, *(0.1,) * 62)
    assert run.percentile_bound == pytest.approx(0.1, rel=0.01)
    assert queries(*(0.001,) * 661, 0.1).percentile_bound == pytest.approx(0.001, rel=0.01)
    assert np.isnan(queries(*(0.001,) * 458).percentile_bound)
    assert queries(*(0.001,) * 459).percentile_bound == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize(
    ("load", "measured", "ceiling", "limited", "notes"),
    [
        (ClosedLoop(8), {}, None, False, ()),
        # The ceiling that was measured is what counts, however busy the generator was.
        (ClosedLoop(8), {"generator_cpu": 0.97}, 600.0, False, ()),
        (ClosedLoop(8), {}, 510.0, True, ("bottleneck", "8 in flight", "510 calls/s")),
        (ClosedLoop(8), {"generator_cpu": 0.97}, None, True, ("bottleneck", "busiest process", "97%")),
        (ClosedLoop(8), {"generator_cpu": 0.5}, None, False, ()),
        (ClosedLoop(8), {"generator_busy": 0.96}, None, True, ("bottleneck", "busiest thread", "96%")),
        (ClosedLoop(8), {"cpu_share": 0.12, "cpus_busy": 0.96}, None, True, ("a limit too", "12%", "96%", "1.1 times")),
        (ClosedLoop(8), {"cpu_share": 0.04, "cpus_busy": 0.96}, None, False, ()),
        (ClosedLoop(8), {"cpu_share": 0.12, "cpus_busy": 0.85}, None, False, ()),
        (ClosedLoop(8), {"cpu_share": 0.12, "cpus_busy": 0.96, "generator_cpu": 0.97}, None, True, ("bottleneck",)),
        (OpenLoop(100.0), {"cpu_share": 0.12, "cpus_busy": 0.96, "generator_cpu": 0.97}, None, False, ()),
    ],
)
def test_a_closed_loop_that_the_generator_limits_is_noted(
    load: Load, measured: dict[str, Any], ceiling: float | None, limited: bool, notes: tuple[str, ...]
) -> None:
    """At 500 calls a second."""
    run = run_of(block("cnn", load, *(0.001,) * 500, **measured), ceiling=ceiling)
    assert run.valid
    assert run.limited_by_generator is limited
    assert len(run.notes) == bool(notes)
    assert all(note in run.notes[0] for note in notes)


def test_an_open_loop_is_invalid_where_more_than_5_percent_of_its_queries_are_late() -> None:
    late, on_time = (run_of(block("cnn", OpenLoop(100.0), *(0.001,) * 500, delayed=count)) for count in (26, 25))
    assert on_time.valid
    (problem,) = late.problems
    assert problem.startswith("the generator could not keep up: 5.2% of the queries left more than 5 ms late")
